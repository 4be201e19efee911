"""A campaign against files: kills, full disks, poor machines and tampered folders, and what each of them lost."""
