//! What YAML 1.1, as PyYAML reads it, makes of a plain scalar.

use serde_json::{Number, Value};

/// The value of a plain scalar; `None`: it is text. Dates stay text, they have no JSON form.
pub(crate) fn resolve(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(number) = integer(digits) {
        let number = if negative { number.checked_neg()? } else { number };
        return i64::try_from(number).map(Number::from).or_else(|_| u64::try_from(number).map(Number::from)).ok().map(Value::Number);
    }
    let number = float(digits)?;
    Number::from_f64(if negative { -number } else { number }).map(Value::Number)
}

/// Decimal, `0x1F`, `0b11`, octal (`0640`), with underscores, and base 60 (`1:30`).
fn integer(digits: &str) -> Option<i128> {
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    let radix = |text: &str, radix: u32| {
        let fits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        fits.then(|| i128::from_str_radix(text, radix).ok()).flatten()
    };
    if let Some(hex) = plain.strip_prefix("0x") {
        return radix(hex, 16);
    }
    if let Some(binary) = plain.strip_prefix("0b") {
        return radix(binary, 2);
    }
    if plain.contains(':') {
        if plain.starts_with('0') {
            return None;
        }
        return plain.split(':').enumerate().try_fold(0_i128, |sum, (index, part)| {
            let part = radix(part, 10).filter(|value| index == 0 || *value < 60 && part.len() <= 2)?;
            sum.checked_mul(60)?.checked_add(part)
        });
    }
    match plain.strip_prefix('0') {
        Some("") => Some(0),
        Some(octal) => radix(octal, 8),
        None => radix(&plain, 10),
    }
}

/// A float has a point, and its exponent a sign: `1e3` is text, a password for example.
fn float(digits: &str) -> Option<f64> {
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    let (mantissa, exponent) = match plain.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (plain.as_str(), None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_fits =
        exponent.is_none_or(|text| text.strip_prefix(['-', '+']).is_some_and(|digits| !digits.is_empty() && all_digits(digits)));
    if whole.is_empty() && fraction.is_empty() || !all_digits(whole) || !all_digits(fraction) || !exponent_fits {
        return None;
    }
    plain.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::resolve;
    use serde_json::json;

    #[test]
    fn numbers_of_yaml_1_1() {
        for (text, value) in [
            ("0640", json!(416)),
            ("1_000", json!(1000)),
            ("-0_10", json!(-8)),
            ("1:30", json!(90)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("+5", json!(5)),
            ("-0", json!(0)),
            ("1.50", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1_0.5", json!(10.5)),
            ("1.5e+3", json!(1500.0)),
            ("18446744073709551615", json!(u64::MAX)),
            ("~", json!(null)),
            ("Off", json!(false)),
        ] {
            assert_eq!(resolve(text), Some(value), "{text}");
        }
        for text in [
            "10.0.0.1:8008",
            "0890",
            "99999999999999999999",
            "1e3",
            "1.5e3",
            "0x",
            "_1",
            ".",
            "-",
            "+",
            "1.2.3",
            "y",
            "oN",
            "12:345",
            "1:99",
            "0o17",
            "٣",
            "1:",
            ".inf",
            "é",
            "1:é",
        ] {
            assert_eq!(resolve(text), None, "{text}");
        }
    }
}
