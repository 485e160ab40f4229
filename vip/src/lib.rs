//! Virtual IP addresses: rtnetlink, ARP and neighbour advertisement.
//!
//! Nothing is here yet: the core already knows the actions and permits (`mastiff::ha`), the sockets follow.
