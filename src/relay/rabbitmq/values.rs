//! Values of AMQP headers as the text that STOMP has. Pure.
//!
//! RabbitMQ's STOMP plugin shows text and integers, and drops the rest. Here:
//!
//! | AMQP | text |
//! |---|---|
//! | bool | `true`, `false` |
//! | integers, decimal, float, double | decimal: `-5`, `12.50`, `1.5` |
//! | timestamp | seconds since 1970 |
//! | bytes | as they are, where they are UTF-8 |
//! | table, array | JSON |
//! | void | nothing: the header is there and empty |

use std::borrow::Cow;

use lapin::types::{AMQPValue, DecimalValue};

/// A table or an array that is longer as JSON is not shown, nor what lies deeper in one.
const MAX_JSON: usize = 64 * 1024;
const MAX_DEPTH: usize = 16;

/// `None`: STOMP has no way to say it.
pub(super) fn text(value: &AMQPValue) -> Option<Cow<'_, str>> {
    let text = match value {
        AMQPValue::LongString(text) => Cow::Borrowed(std::str::from_utf8(text.as_bytes()).ok()?),
        AMQPValue::ByteArray(bytes) => Cow::Borrowed(std::str::from_utf8(bytes.as_slice()).ok()?),
        AMQPValue::ShortString(text) => Cow::Borrowed(text.as_str()),
        AMQPValue::FieldTable(_) | AMQPValue::FieldArray(_) => {
            let mut json = String::new();
            put_json(&mut json, value, 0)?;
            Cow::Owned(json)
        }
        AMQPValue::Void => Cow::Borrowed(""),
        other => Cow::Owned(scalar(other)?),
    };
    // STOMP has no escape for NUL.
    (!text.contains('\0')).then_some(text)
}

/// What is a number or a bool, the same in a header and in JSON.
fn scalar(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::Boolean(is) => Some(is.to_string()),
        AMQPValue::ShortShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortShortUInt(number) => Some(number.to_string()),
        AMQPValue::ShortInt(number) => Some(number.to_string()),
        AMQPValue::ShortUInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        // serde_json writes the shortest that reads the same, and no number for what is none.
        AMQPValue::Float(number) if number.is_finite() => serde_json::to_string(number).ok(),
        AMQPValue::Double(number) if number.is_finite() => serde_json::to_string(number).ok(),
        AMQPValue::DecimalValue(DecimalValue { scale, value }) => Some(decimal(*scale, *value)),
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::ShortString(_)
        | AMQPValue::LongString(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

/// `scale` digits stand behind the point.
fn decimal(scale: u8, value: u32) -> String {
    let scale = usize::from(scale);
    let digits = format!("{value:0>width$}", width = scale + 1);
    match digits.split_at_checked(digits.len() - scale) {
        Some((whole, fraction)) if !fraction.is_empty() => format!("{whole}.{fraction}"),
        _ => digits,
    }
}

fn put_json(out: &mut String, value: &AMQPValue, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH || out.len() > MAX_JSON {
        return None;
    }
    match value {
        AMQPValue::FieldTable(table) => {
            out.push('{');
            for (index, (name, value)) in table.inner().iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                put_text(out, name.as_str())?;
                out.push(':');
                put_json(out, value, depth + 1)?;
            }
            out.push('}');
        }
        AMQPValue::FieldArray(values) => {
            out.push('[');
            for (index, value) in values.as_slice().iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                put_json(out, value, depth + 1)?;
            }
            out.push(']');
        }
        AMQPValue::ShortString(text) => put_text(out, text.as_str())?,
        AMQPValue::LongString(text) => put_bytes(out, text.as_bytes())?,
        AMQPValue::ByteArray(bytes) => put_bytes(out, bytes.as_slice())?,
        other => out.push_str(scalar(other).as_deref().unwrap_or("null")),
    }
    (out.len() <= MAX_JSON).then_some(())
}

fn put_bytes(out: &mut String, bytes: &[u8]) -> Option<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) => put_text(out, text),
        Err(_) => {
            out.push_str("null");
            Some(())
        }
    }
}

fn put_text(out: &mut String, text: &str) -> Option<()> {
    out.push_str(&serde_json::to_string(text).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{FieldArray, FieldTable};

    fn table(pairs: &[(&str, AMQPValue)]) -> AMQPValue {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        AMQPValue::FieldTable(table)
    }

    #[test]
    fn every_type() {
        use AMQPValue as V;
        let decimal = |scale, value| V::DecimalValue(DecimalValue { scale, value });
        let bad = || V::LongString(vec![0xff_u8].into());
        let array = FieldArray::from(vec![V::Boolean(false), V::Void, bad(), V::Double(0.5)]);
        let nested = table(&[
            ("a\"b", V::LongString("x\n\0\u{e9}".into())),
            ("n", V::LongLongInt(-1)),
            ("t", table(&[("at", V::Timestamp(7))])),
        ]);
        let cases = [
            (V::Boolean(true), Some("true")),
            (V::Boolean(false), Some("false")),
            (V::ShortShortInt(-128), Some("-128")),
            (V::ShortShortUInt(255), Some("255")),
            (V::ShortInt(-2), Some("-2")),
            (V::ShortUInt(65_535), Some("65535")),
            (V::LongInt(i32::MIN), Some("-2147483648")),
            (V::LongUInt(u32::MAX), Some("4294967295")),
            (V::LongLongInt(i64::MIN), Some("-9223372036854775808")),
            (V::Float(1.5), Some("1.5")),
            (V::Double(0.1), Some("0.1")),
            (V::Double(1e300), Some("1e+300")),
            (V::Double(f64::NAN), None),
            (V::Float(f32::INFINITY), None),
            (decimal(2, 1250), Some("12.50")),
            (decimal(3, 7), Some("0.007")),
            (decimal(0, 42), Some("42")),
            (V::ShortString("s".into()), Some("s")),
            (V::LongString("l".into()), Some("l")),
            (bad(), None),
            (V::LongString("a\0b".into()), None),
            (V::Timestamp(1_700_000_000), Some("1700000000")),
            (V::ByteArray(b"bytes".as_slice().into()), Some("bytes")),
            (V::ByteArray([0xff_u8].as_slice().into()), None),
            (V::Void, Some("")),
            (V::FieldArray(FieldArray::default()), Some("[]")),
            (V::FieldArray(array), Some("[false,null,null,0.5]")),
            (nested, Some(r#"{"a\"b":"x\n\u0000é","n":-1,"t":{"at":7}}"#)),
        ];
        for (value, expected) in cases {
            assert_eq!(text(&value).as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn a_decimal_of_any_scale() {
        let text = decimal(255, 1);
        assert_eq!((text.len(), &text[..3]), (257, "0.0"));
    }

    #[test]
    fn neither_deep_nor_long_without_end() {
        let mut deep = AMQPValue::Void;
        for depth in 0..=MAX_DEPTH + 1 {
            assert_eq!(text(&deep).is_some(), depth <= MAX_DEPTH, "{depth}");
            deep = table(&[("t", deep)]);
        }
        assert_eq!(text(&deep), None);
        let long = |bytes: usize| {
            let text = AMQPValue::LongString("x".repeat(bytes).as_bytes().into());
            AMQPValue::FieldArray(FieldArray::from(vec![text]))
        };
        assert!(text(&long(MAX_JSON - 4)).is_some());
        assert_eq!(text(&long(MAX_JSON - 3)), None);
    }
}
