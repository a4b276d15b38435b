"""The compiled loops over tables, and the threads that wait for the next one."""
