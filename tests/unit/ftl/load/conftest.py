"""The rig of the tests of loads."""

from unit.ftl.load.restore_rig import restore_rig_of_the_test, restore_rigs

__all__ = ["restore_rig_of_the_test", "restore_rigs"]
