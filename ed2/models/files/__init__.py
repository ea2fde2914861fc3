"""The files of models: diffusers folders, single files and pickled ones, looked at before they are loaded."""
