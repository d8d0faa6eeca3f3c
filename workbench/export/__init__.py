"""What the workbench says: figures and tables as pure functions of records, nothing computed."""
