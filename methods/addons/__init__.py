"""The installed add-ons, one file each: methods that wrap another."""
