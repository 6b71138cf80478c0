"""Where tickets are kept: a module for each kind of database, behind one Protocol."""
