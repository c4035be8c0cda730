//! Hands over to the library and returns its exit code.

fn main() -> std::process::ExitCode {
    k1ops::run(std::env::args_os()).into()
}
