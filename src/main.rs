//! The agent.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((role, rest)) = args.split_first() {
        if role == mastiff::postgres::launch::ROLE {
            std::process::exit(mastiff::postgres::launch::launch_main(rest));
        }
    }
}
