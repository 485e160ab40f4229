//! What a string looks like to a YAML 1.1 reader: whether it can stand without quotes, and whether it would be read as another type.

/// In which styles a string may be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Analysis {
    pub(super) multiline: bool,
    pub(super) flow_plain: bool,
    pub(super) block_plain: bool,
    pub(super) single_quoted: bool,
}

/// A line break of YAML 1.1 (carriage return is not counted: it is escaped anyway).
pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_white(c: char) -> bool {
    is_break(c) || matches!(c, '\0' | ' ' | '\t' | '\r')
}

fn is_special(c: char) -> bool {
    !matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10fffe}')
        || c == '\u{feff}'
}

/// Looks at each character once.
pub(super) fn analyse(text: &str) -> Analysis {
    let chars: Vec<char> = text.chars().collect();
    let (Some(first), Some(last)) = (chars.first(), chars.last()) else {
        return Analysis { multiline: false, flow_plain: false, block_plain: true, single_quoted: true };
    };
    let edge = |c: char| c == ' ' || is_break(c);
    let (mut flow, mut block) = indicators(&chars);
    if text.starts_with("---") || text.starts_with("...") {
        (flow, block) = (true, true);
    }
    let multiline = chars.iter().copied().any(is_break);
    let after_break = chars.windows(2).any(|pair| is_break(pair[0]) && pair[1] == ' ');
    let before_break = chars.windows(2).any(|pair| pair[0] == ' ' && is_break(pair[1]));
    let special = chars.iter().copied().any(is_special);
    let quotable = !(after_break || before_break || special);
    let plain = quotable && !edge(*first) && !edge(*last) && !multiline;
    Analysis { multiline, flow_plain: plain && !flow, block_plain: plain && !block, single_quoted: quotable }
}

/// Whether it holds characters with a meaning in flow style, and in block style.
fn indicators(chars: &[char]) -> (bool, bool) {
    let (mut flow, mut block) = (false, false);
    for (at, c) in chars.iter().copied().enumerate() {
        let white_before = at == 0 || is_white(chars[at - 1]);
        let white_after = chars.get(at + 1).is_none_or(|next| is_white(*next));
        let (f, b) = match c {
            '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if at == 0 => (true, true),
            ',' | '[' | ']' | '{' | '}' => (true, false),
            '?' if at == 0 => (true, white_after),
            '?' => (true, false),
            ':' => (true, white_after),
            '-' if at == 0 => (white_after, white_after),
            '#' => (white_before, white_before),
            _ => (false, false),
        };
        flow |= f;
        block |= b;
    }
    (flow, block)
}

/// Whether a YAML 1.1 reader takes the bare text for something else than a string.
pub(super) fn is_implicit_other_type(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "yes", "Yes", "YES", "no", "No", "NO", "true", "True", "TRUE", "false", "False", "FALSE", "on",
        "On", "ON", "off", "Off", "OFF", "<<", "=", ".nan", ".NaN", ".NAN",
    ];
    WORDS.contains(&text) || is_int(text) || is_float(text) || is_timestamp(text)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

fn digit_or_line(c: char) -> bool {
    c.is_ascii_digit() || c == '_'
}

fn is_int(text: &str) -> bool {
    let body = unsigned(text);
    if let Some(bits) = body.strip_prefix("0b") {
        return all(bits, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(hex) = body.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if let Some(octal) = body.strip_prefix('0') {
        return octal.is_empty() || octal.chars().all(|c| matches!(c, '0'..='7' | '_'));
    }
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or("");
    first.starts_with(|c: char| c.is_ascii_digit()) && all(first, digit_or_line) && parts.all(is_sixtieth)
}

/// `[0-5]?[0-9]`, of the sexagesimal numbers.
fn is_sixtieth(part: &str) -> bool {
    matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
}

fn is_float(text: &str) -> bool {
    let body = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let Some((whole, fraction)) = body.split_once('.') else { return false };
    if whole.contains(':') {
        let mut parts = whole.split(':');
        let first = parts.next().unwrap_or("");
        return first.starts_with(|c: char| c.is_ascii_digit())
            && all(first, digit_or_line)
            && parts.all(is_sixtieth)
            && fraction.chars().all(digit_or_line);
    }
    let (digits, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    let exponent_fits = exponent.is_none_or(|power| power.starts_with(['-', '+']) && all(&power[1..], |c| c.is_ascii_digit()));
    let digits_fit = if whole.is_empty() {
        // A leading point takes no sign.
        body.len() == text.len() && digits.starts_with(|c: char| c.is_ascii_digit()) && digits.chars().all(digit_or_line)
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit()) && all(whole, digit_or_line) && digits.chars().all(digit_or_line)
    };
    digits_fit && exponent_fits
}

/// Takes between `min` and `max` digits from the front.
fn digits(text: &str, min: usize, max: usize) -> Option<&str> {
    let count = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    (count >= min).then(|| &text[count..])
}

fn is_timestamp(text: &str) -> bool {
    is_date(text) || is_date_and_time(text).unwrap_or(false)
}

fn is_date(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00"
}

fn is_date_and_time(text: &str) -> Option<bool> {
    let rest = digits(text, 4, 4)?.strip_prefix('-')?;
    let rest = digits(rest, 1, 2)?.strip_prefix('-')?;
    let rest = digits(rest, 1, 2)?;
    let rest = match rest.strip_prefix(['T', 't']) {
        Some(rest) => rest,
        None => {
            let trimmed = rest.trim_start_matches([' ', '\t']);
            if trimmed.len() == rest.len() {
                return None;
            }
            trimmed
        }
    };
    let rest = digits(rest, 1, 2)?.strip_prefix(':')?;
    let rest = digits(rest, 2, 2)?.strip_prefix(':')?;
    let mut rest = digits(rest, 2, 2)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    if rest.is_empty() {
        return Some(true);
    }
    let zone = rest.trim_start_matches([' ', '\t']);
    if zone == "Z" {
        return Some(true);
    }
    let rest = digits(zone.strip_prefix(['-', '+'])?, 1, 2)?;
    Some(rest.is_empty() || rest.strip_prefix(':').and_then(|minutes| digits(minutes, 2, 2)).is_some_and(str::is_empty))
}
