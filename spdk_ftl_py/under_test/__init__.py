"""The programs of a system under test. spdk_ftl_py.testing makes fixtures of them."""
