@echo off
rem Start the program: finds a Python and starts ed2\launcher\launch.py, which makes .venv, installs what is missing and runs the command.
setlocal EnableExtensions DisableDelayedExpansion
set "HERE=%~dp0"
set "PYTHONHOME="
set "PYTHONPATH="
set "FOUND="
set "RC=1"
if not exist "%HERE%ed2\launcher\launch.py" goto :nofolder
rem A half-made .venv (with the file .partial), or one whose Python is gone, is not used: launch.py makes it again.
if exist "%HERE%.venv\.partial" goto :find
if not exist "%HERE%.venv\Scripts\python.exe" goto :find
"%HERE%.venv\Scripts\python.exe" -c "" >nul 2>nul
if errorlevel 1 goto :find
"%HERE%.venv\Scripts\python.exe" -I -X utf8 "%HERE%ed2\launcher\launch.py" %*
set "RC=%ERRORLEVEL%"
goto :end

:find
if defined PYTHON call :try "%PYTHON%"
for %%V in (3.12 3.13 3.11 3.14) do call :try py -%%V
call :try python
if not defined FOUND goto :nopython
%FOUND% -I -X utf8 "%HERE%ed2\launcher\launch.py" %*
set "RC=%ERRORLEVEL%"
goto :end

:try
if defined FOUND exit /b 0
%* -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" >nul 2>nul
if not errorlevel 1 set FOUND=%*
exit /b 0

:nopython
echo.
echo ERROR: Python 3.11 to 3.14 was not found.
echo   Install it from https://www.python.org/downloads/windows/ with "Add python.exe to PATH" ticked, then start again.
goto :end

:nofolder
echo.
echo ERROR: the program's files are not next to this script.
echo   Unpack the whole folder to a local drive and start launch.bat there.

:end
if not "%RC%"=="0" if not defined CI pause
exit /b %RC%
