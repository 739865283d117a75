"""What the emulator needs of the machine it runs on.

Files that are written whole, archives, threads and processes that end with it, and its own way to its S3.
Knows no resource.
"""
