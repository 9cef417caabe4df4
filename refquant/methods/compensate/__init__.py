"""Editing the weight to compensate for errors already made."""
