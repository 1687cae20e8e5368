"""A motion detector (HC-SR501 and the like): a record when motion begins and when it ends."""

from node.sensors.contact import Contact


class Pir(Contact):
    UNITS = (("motion", "bool"),)
    PULL_UP = False


make = Pir
