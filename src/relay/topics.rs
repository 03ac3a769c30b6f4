//! Who subscribes which topic in this process.
