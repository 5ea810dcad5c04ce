"""The run folder: its layout, its protocol and how runs are loaded."""
