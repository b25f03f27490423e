"""Team `survey`: reads a folder of source code and reports on it, every fact with file, line and text."""
