//! Identifiers as AWS makes them, from the operating system's random source.

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 hex digits: a task id, a container id.
pub fn hex_id() -> String {
    hex(&random::<16>())
}

/// `prefix-` and 17 hex digits, as EC2 names things: `eni-0abc…`.
pub fn resource_id(prefix: &str) -> String {
    let digits = hex(&random::<8>());
    format!("{prefix}-0{digits}")
}

/// `count` decimal digits, the first not zero: `ecs-svc/…`, the tail of a Fargate runtime id.
pub fn digits(count: usize) -> String {
    (0..count)
        .map(|place| {
            let byte = u32::from_le_bytes(random::<4>());
            let digit = if place == 0 { 1 + byte % 9 } else { byte % 10 };
            char::from_digit(digit, 10).expect("a decimal digit")
        })
        .collect()
}

/// An IAM unique id: `AIDA…`, `AROA…`, `AKIA…`: the prefix and letters and digits up to 20 in all.
pub fn unique_id(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut id = prefix.to_owned();
    while id.len() < 20 {
        id.push(char::from(ALPHABET[usize::from(random::<1>()[0] % 32)]));
    }
    id
}

/// A locally administered unicast address, `0a:…` as EC2's are.
pub fn mac_address() -> String {
    let [a, b, c, d, e] = random::<5>();
    format!("0a:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert_eq!(hex_id().len(), 32);
        assert_eq!(resource_id("eni").len(), "eni-".len() + 17);
        assert_eq!(unique_id("AKIA").len(), 20);
        assert_eq!(digits(19).len(), 19);
        assert_ne!(hex_id(), hex_id());
        assert!(mac_address().starts_with("0a:"));
    }
}
