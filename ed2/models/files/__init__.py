"""The files of models: diffusers folders, single files and pickled ones, checked before they are loaded."""
