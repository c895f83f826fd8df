"""From a group of config fields to a part of the experiment; the choices by name stand here."""
