//! Why a session ends: what its ERROR says, and the code of the close behind it.

/// Close codes (RFC 6455, 7.4.1), also where there is no WebSocket.
pub(super) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const NOT_UTF8: u16 = 1007;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_BIG: u16 = 1009;
}

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) message: &'static str,
    /// Of the frame that is refused.
    pub(super) receipt: Option<String>,
}

impl Refusal {
    /// Against the grammar or out of turn.
    pub(super) const fn syntax(message: &'static str) -> Self {
        Self { code: code::PROTOCOL, message, receipt: None }
    }

    /// Something that this session must not have, or not so much of.
    pub(super) const fn limit(message: &'static str) -> Self {
        Self { code: code::POLICY, message, receipt: None }
    }

    pub(super) const fn too_big() -> Self {
        Self { code: code::TOO_BIG, message: "Frame too big", receipt: None }
    }
}
