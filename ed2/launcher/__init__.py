"""What launch.sh and launch.bat call: makes `.venv`, fills it, and starts the program. Standard library only."""
