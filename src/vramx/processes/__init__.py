"""What processes of one machine know of each other: a folder, locks that end with their holder."""
