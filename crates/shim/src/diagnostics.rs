//! What a shim says of itself goes into its task's folder, whose disk may be full. It is lost then, and nothing else is:
//! `eprintln!` would end the shim, and its task with it.

macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
