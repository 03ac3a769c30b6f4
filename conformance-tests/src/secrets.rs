//! What no report may show: the passcode, and the values of headers the user gave.

use std::fmt;

use crate::reader::show_bare;
use crate::target::Account;

/// Shown in a secret's place.
pub(crate) const HIDDEN: &str = "***";
/// A shorter passcode hides too much where it is looked for everywhere.
const PASSCODE_ANYWHERE: usize = 4;
/// A shorter header's value is more often a common word than a secret.
const HEADER_ANYWHERE: usize = 8;

/// The secrets of one account.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    secrets: Vec<Secret>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Secret {
    /// As `name:value`.
    in_header: Vec<u8>,
    /// Where the value begins in it.
    value_at: usize,
    /// The value as it is and with the escapes of a header, where it is hidden wherever it stands.
    anywhere: Vec<Vec<u8>>,
}

impl Secrets {
    pub(crate) fn new(account: &Account) -> Self {
        let Account { login, passcode, headers } = account;
        // Whoever sees the login knows such a passcode already, and is told nothing by `***`.
        let anywhere = passcode.len() >= PASSCODE_ANYWHERE && passcode != login;
        let mut secrets = vec![Secret::new("passcode", passcode, anywhere)];
        for (name, value) in headers {
            secrets.push(Secret::new(name, value, value.len() >= HEADER_ANYWHERE));
        }
        secrets.retain(|secret| secret.in_header.len() > secret.value_at);
        Self { secrets }
    }

    /// The longest, with its header's name.
    pub(crate) fn longest(&self) -> usize {
        self.secrets.iter().map(|secret| 2 * secret.in_header.len()).max().unwrap_or(0)
    }

    /// Which bytes are hidden.
    pub(crate) fn mask(&self, bytes: &[u8]) -> Vec<bool> {
        let mut mask = vec![false; bytes.len()];
        for secret in &self.secrets {
            let header = secret.in_header.as_slice();
            let ends = |at: usize| matches!(bytes.get(at), None | Some(b'\n' | b'\r' | b'\0'));
            for at in places(bytes, header) {
                if (at == 0 || ends(at - 1)) && ends(at + header.len()) {
                    cover(&mut mask, at + secret.value_at, at + header.len());
                }
            }
            for value in &secret.anywhere {
                for at in places(bytes, value) {
                    cover(&mut mask, at, at + value.len());
                }
            }
        }
        mask
    }

    /// A text that shows bytes, the secrets hidden.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in &self.secrets {
            let name = show_bare(secret.in_header.get(..secret.value_at).unwrap_or_default());
            out = out.replace(&show_bare(&secret.in_header), &format!("{name}{HIDDEN}"));
            for value in &secret.anywhere {
                out = out.replace(&show_bare(value), HIDDEN);
            }
        }
        out
    }
}

impl Secret {
    fn new(name: &str, value: &str, anywhere: bool) -> Self {
        let escaped = value.replace('\\', "\\\\").replace(':', "\\c");
        let mut forms = vec![value.as_bytes().to_vec(), escaped.into_bytes()];
        forms.dedup();
        Self {
            in_header: format!("{name}:{value}").into_bytes(),
            value_at: name.len() + 1,
            anywhere: if anywhere { forms } else { Vec::new() },
        }
    }
}

fn places<'a>(bytes: &'a [u8], part: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    bytes.windows(part.len()).enumerate().filter(move |(_, w)| *w == part).map(|(at, _)| at)
}

fn cover(mask: &mut [bool], from: usize, to: usize) {
    for hidden in mask.get_mut(from..to).unwrap_or_default() {
        *hidden = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(login: &str, passcode: &str, headers: &[(&str, &str)], text: &str) -> String {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let account = Account { login: login.into(), passcode: passcode.into(), headers };
        let mask = Secrets::new(&account).mask(text.as_bytes());
        text.bytes().zip(mask).map(|(b, hidden)| if hidden { '*' } else { b as char }).collect()
    }

    #[test]
    fn bytes() {
        let cases = [
            ("u", "secret", "A\npasscode:secret\n", "A\npasscode:******\n"),
            ("u", "secret", "no secret here", "no ****** here"),
            // A short one only in its header.
            ("u", "abc", "abc\npasscode:abc\n", "abc\npasscode:***\n"),
            ("u", "abc", "xpasscode:abc\npasscode:abcd\n", "xpasscode:abc\npasscode:abcd\n"),
            // The default account's is no secret beside its login.
            ("guest", "guest", "login:guest\npasscode:guest\0", "login:guest\npasscode:*****\0"),
            ("u", "", "passcode:\n", "passcode:\n"),
            ("u", "a:b:c", "got a\\cb\\cc", "got *******"),
        ];
        for (login, passcode, text, expected) in cases {
            assert_eq!(hidden(login, passcode, &[], text), expected, "{text}");
        }
        let headers = [("token", "0123456789"), ("short", "true")];
        let text = "token:0123456789\nshort:true\ntrue 0123456789";
        let expected = "token:**********\nshort:****\ntrue **********";
        assert_eq!(hidden("u", "p", &headers, text), expected);
    }

    #[test]
    fn texts() {
        let account =
            Account { login: "u".into(), passcode: "se\"cret".into(), headers: Vec::new() };
        let secrets = Secrets::new(&account);
        assert_eq!(secrets.hide(r#"got ERROR "no \"se\"cret\"""#), r#"got ERROR "no \"***\"""#);
        assert_eq!(secrets.hide("passcode:x"), "passcode:x");
    }
}
