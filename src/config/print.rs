//! All keys with their values, as a config file that says the same.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::keys::{KEYS, Key, Kind, REDACTED, Value, section_of};
use super::source::Settings;
use super::values::{show_size, show_time};

/// Writes the keys section by section. What is not set stands in a comment, and so does a
/// section without anything set: its mere presence may mean something.
pub(super) fn print(settings: &Settings, out: &mut impl Write) -> io::Result<()> {
    let mut section = "";
    let mut keys = KEYS.iter().peekable();
    while let Some(key) = keys.peek() {
        let own = section_of(key.name);
        let list = own.strip_suffix("[]");
        let mut of_section = Vec::new();
        while let Some(key) = keys.next_if(|key| section_of(key.name) == own) {
            of_section.push(key);
        }
        if let Some(list) = list {
            print_list(settings, list, &of_section, out)?;
        } else {
            // A login's defaults count where the login is configured.
            let off = own.starts_with("auth") && !settings.has(own);
            let unset = off || of_section.iter().all(|key| settings.value(key.name).is_none());
            if own != section {
                let mark = if unset { "# " } else { "" };
                writeln!(out, "\n{mark}[{own}]")?;
            }
            for key in &of_section {
                let mark = if off { "# " } else { "" };
                writeln!(out, "{mark}{}", line(settings, key, key.name))?;
            }
        }
        section = own;
    }
    Ok(())
}

fn print_list(
    settings: &Settings,
    list: &str,
    keys: &[&Key],
    out: &mut impl Write,
) -> io::Result<()> {
    let length = settings.length(list);
    for index in 0..length {
        writeln!(out, "\n[[{list}]]")?;
        for key in keys {
            let name = format!("{list}[{index}].{}", last(key.name));
            writeln!(out, "{}", line(settings, key, &name))?;
        }
    }
    if length == 0 {
        writeln!(out, "\n# [[{list}]]")?;
        for key in keys {
            writeln!(out, "# {}", line(settings, key, key.name))?;
        }
    }
    Ok(())
}

fn line(settings: &Settings, key: &Key, name: &str) -> String {
    let (Some(value), own) = (settings.value(name), last(key.name)) else {
        return format!("# {} =   # {}", last(key.name), key.note);
    };
    let shown = show(&value, key.kind);
    let default = key.default.and_then(|text| key.kind.read_text(text).ok());
    match default {
        Some(default) if default != value => {
            format!("{own} = {shown}   # default {}", show(&default, key.kind))
        }
        _ => format!("{own} = {shown}"),
    }
}

fn last(name: &str) -> &str {
    name.strip_prefix(section_of(name)).unwrap_or(name).trim_start_matches('.')
}

fn show(value: &Value, kind: Kind) -> String {
    match (value, kind) {
        // A public key is no secret, and one cannot do without it.
        (Value::Text(text), Kind::Secret) if !text.contains("BEGIN PUBLIC KEY") => quote(REDACTED),
        (Value::Text(text), _) => quote(text),
        (Value::List(texts), Kind::Addresses) => match texts.as_slice() {
            [text] => quote(&redact(text)),
            _ => list(texts.iter().map(|text| redact(text))),
        },
        (Value::List(texts), _) => list(texts.iter().cloned()),
        (Value::Number(number), Kind::Size { .. }) => quote(&show_size(*number)),
        (Value::Number(number), _) => number.to_string(),
        (Value::Flag(flag), _) => flag.to_string(),
        (Value::Time(time), _) => quote(&show_time(*time)),
        (Value::Off, _) => quote("off"),
    }
}

fn list(texts: impl Iterator<Item = String>) -> String {
    format!("[{}]", texts.map(|text| quote(&text)).collect::<Vec<_>>().join(", "))
}

/// The address without its password. All between the first colon of the user's part and the
/// last at sign goes, however the rest is to be understood.
fn redact(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let Some((login, host)) = rest.rsplit_once('@') else { return address.to_owned() };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{REDACTED}@{host}"),
        None => address.to_owned(),
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            '\n' => out.push_str("\\n"),
            _ if char.is_control() => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(char));
            }
            _ => out.push(char),
        }
    }
    out.push('"');
    out
}
