"""Hot numeric operations, each in one file with its plain reference `<op>_ref`; nothing here knows files or models."""
