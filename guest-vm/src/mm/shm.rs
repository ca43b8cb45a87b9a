//! shm (body follows).
