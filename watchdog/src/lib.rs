//! The Linux watchdog device (`linux/watchdog.h`), as the agent needs it.
//!
//! Nothing is here yet: the core already knows the actions and permits (`mastiff::ha`), the device wrapper follows.
