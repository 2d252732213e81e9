"""The papers' figures and tables on one page: `python -m experiments.paper --data=digits`.

plans       what is measured on each data set, and how much of it
asks        a measurement with its options, the unit of work
programs    what runs on the devices, one compiled program each
measures    the measurements, of one batch of examples
study       all of a page's measurements, kept as they are made
relations   the 17 relations that a reproduction is to show
sections    one file a section: what it asks for, and what it makes of it
page        the page
"""
