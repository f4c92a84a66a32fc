"""What experiments leave in their folders, read and drawn; nothing is computed anew."""
