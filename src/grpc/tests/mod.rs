//! Tests over real HTTP/2.
