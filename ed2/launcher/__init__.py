"""What launch.sh and launch.bat call: make `.venv`, install into it, and start the program. Standard library only."""
