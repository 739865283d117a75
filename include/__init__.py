"""The house behind the DAGs: contracts and settings at the bottom, rooms above them, operators on top."""
