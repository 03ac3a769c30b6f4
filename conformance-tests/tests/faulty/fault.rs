//! The mistakes: one switch each. Where a mistake can be seen in one version or over WebSocket
//! only, that is where it is played; otherwise in 1.2 over TCP, wherever a case has that.

use std::cell::RefCell;

use conformance_tests::{Transport, Version};

macro_rules! faults {
    ($($name:ident $(in $version:ident)? $(over $transport:ident)?: $doc:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault {
            $(#[doc = $doc] $name,)*
        }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is wrong, in one line.
            pub(crate) const fn doc(self) -> &'static str {
                match self {
                    $(Self::$name => $doc,)*
                }
            }

            /// Where it is played: the version and the transport, of those that a case has.
            pub(crate) fn place(self) -> (Version, Transport) {
                let (version, transport) = match self {
                    $(Self::$name => (
                        [$(Version::$version,)?].first().copied(),
                        [$(Transport::$transport,)?].first().copied(),
                    ),)*
                };
                (version.unwrap_or(Version::V12), transport.unwrap_or(Transport::Tcp))
            }
        }
    };
}

/// The switches of one server: all off, or one on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults(pub(crate) Option<Fault>);

thread_local! {
    static ASKED: RefCell<[bool; Fault::ALL.len()]> =
        const { RefCell::new([false; Fault::ALL.len()]) };
}

impl Faults {
    pub(super) fn has(self, fault: Fault) -> bool {
        ASKED.with_borrow_mut(|asked| asked[fault as usize] = true);
        self.0 == Some(fault)
    }
}

/// The switches that servers of this thread have looked at since this was last asked.
pub(super) fn take_asked() -> Vec<Fault> {
    let asked = ASKED.replace([false; Fault::ALL.len()]);
    Fault::ALL.iter().copied().filter(|fault| asked[*fault as usize]).collect()
}

faults! {
    // CONNECT.
    LowestVersionChosen: "Of the common versions the lowest is chosen.",
    FirstVersionChosen: "Of the common versions the first that the client names is chosen.",
    LastVersionChosen: "Of the common versions the last that the client names is chosen.",
    Version12Always in V11: "1.2 is chosen, whatever the client knows.",
    NoAcceptVersionIs12 in V10: "A CONNECT without accept-version is taken for 1.2.",
    AcceptVersionRequired in V10: "A CONNECT without accept-version is refused.",
    Version10NotKnown in V10: "1.0 is no version to be named in accept-version.",
    SpacesInVersionsKept: "A version behind a space is not found in accept-version.",
    VersionsByPrefix: "1.20 in accept-version is taken for 1.2.",
    EmptyAcceptVersionIsNone: "An empty accept-version is taken for none.",
    UnknownVersionRefused: "A version that the server does not know is refused.",
    NoCommonVersionTaken: "A client that knows no common version gets a session.",
    HostRequired: "A CONNECT without host is refused.",
    UnknownConnectHeaderRefused: "A CONNECT with a header that nobody knows is refused.",
    EscapesInConnect: "Escapes are decoded in CONNECT.",
    StompUnknown: "STOMP is no command.",
    AnybodyConnects: "Login and passcode are not looked at.",
    SecondConnectTaken: "A second CONNECT is answered by CONNECTED.",
    SecondStompTaken: "A second CONNECT under its other name is answered by CONNECTED.",
    FramesBehindConnectLost: "What comes in one write with CONNECT is dropped.",
    ConnectedWithoutVersion: "CONNECTED has no version.",
    ConnectedWithoutHeartBeat: "CONNECTED has no heart-beat.",
    ConnectedWithoutServer: "CONNECTED has no server.",
    ConnectedWithoutSession in V10: "CONNECTED has no session.",
    ConnectHasReceipt: "CONNECT with a receipt is answered by RECEIPT too.",
    GoneClientBlocks: "A client that goes before it has connected blocks the server.",
    SessionsSame: "All sessions have the same id.",
    ConnectedWithBody: "CONNECTED has a body.",
    SendBeforeConnectTaken: "SEND before CONNECT is done.",
    SubscribeBeforeConnectTaken: "SUBSCRIBE before CONNECT is done.",
    UnsubscribeBeforeConnectTaken: "UNSUBSCRIBE before CONNECT is done.",
    BeginBeforeConnectTaken: "BEGIN before CONNECT is done.",
    NackBeforeConnectTaken: "NACK before CONNECT is answered as a NACK of nothing is.",
    CommitBeforeConnectTaken: "COMMIT before CONNECT is answered as one of nothing is.",
    AbortBeforeConnectTaken: "ABORT before CONNECT is answered as one of nothing is.",
    AckBeforeConnectTaken: "ACK before CONNECT is answered as an ACK of nothing is.",
    ConnectedBeforeConnectTaken: "CONNECTED before CONNECT is ignored.",
    DisconnectBeforeConnectTaken: "DISCONNECT before CONNECT is done.",

    // Bytes to frames.
    ReadsAreFrames: "A frame that comes in two reads is lost.",
    OneFramePerRead: "What follows a frame in the same read is lost.",
    BeatIsNoFrame: "A line feed between frames is a syntax error.",
    CrlfBeatIsNoFrame: "CR LF between frames is a syntax error.",
    NulBetweenFramesRefused: "NUL between frames is a syntax error.",
    CrlfKept: "CR before LF belongs to the line.",
    LoneCrTaken: "CR within a header line is taken.",
    NulInHeadTaken: "NUL within a header line is taken.",
    CommandInAnyCase: "Commands are known in lower case too.",
    CommandTrimmed: "A space behind a command is dropped.",
    UnknownCommandTaken: "An unknown command is ignored.",
    ServerCommandTaken: "A server's frame is ignored where a client sends it.",
    NackUnknown: "NACK is no command.",
    HeaderWithoutColonTaken: "A header line without a colon is ignored.",
    HeaderWithoutNameTaken: "A header without a name is taken.",
    SecondColonRefused: "A second colon in a header line is a syntax error.",
    LastColonSplits: "A header's name ends at the last colon of its line.",
    EmptyValueLost: "A header without a value is dropped.",
    PaddingKeptIn10 in V10: "Spaces behind a header's colon belong to the value in 1.0.",
    NamesTrimmed: "Spaces around a header's name are dropped.",
    ValuesShort: "A header's value has at most 1 KiB.",
    DestinationMustBeFirst: "In a SEND destination must be the first header.",
    ValueTrimmed: "Spaces around a header's value are dropped.",
    HeadersOfAnyBytes: "Headers that are no UTF-8 are taken.",
    HeadersReadAsLatin1: "Each byte of a header is taken for a character.",
    UnicodeEndsLine: "U+0085 and U+2028 end a header line.",
    HeaderNamesInAnyCase: "Names of headers are known in upper case too.",
    LastHeaderCounts: "Of a repeated header the last counts.",
    NoUnescape: "Escapes in headers are not decoded.",
    UnescapedInPasses: "Escapes are decoded one kind after the other.",
    EscapesIn10 in V10: "Escapes are decoded in 1.0.",
    EscapesOf12In11 in V11: "1.1 knows the escape of the carriage return.",
    UnknownEscapeTaken: "A backslash before an unknown letter is dropped.",
    TabEscapeTaken: "There is an escape for the tabulator.",
    BackslashAtEndTaken: "A backslash at the end of a value stands for itself.",
    ContentLengthIgnored: "A body ends at the first NUL, whatever content-length says.",
    ContentLengthOffByOne: "A body is one byte shorter than its content-length.",
    ContentLengthInCharacters: "content-length counts characters.",
    ContentLengthWordTaken: "A content-length that is no number is ignored.",
    ContentLengthEmptyTaken: "An empty content-length is ignored.",
    ContentLengthNegativeTaken: "A negative content-length is ignored.",
    ContentLengthZeroRefused: "A content-length of 0 is no number.",
    ContentLengthZerosRefused: "A content-length that begins with 0 is no number.",
    ContentLengthPlusTaken: "A content-length may have a sign.",
    ContentLengthHugeAwaited: "A body of any content-length is waited for.",
    ContentLengthWraps: "A content-length beyond a machine word is cut off.",
    ContentLengthsDifferTaken: "Of two content-lengths that differ the first counts.",
    ContentLengthTwiceRefused: "A second content-length that agrees is a syntax error.",
    ContentLengthShortTaken: "What follows a body that is as long as it says is skipped.",
    BodyEndsAtLastNul: "A body without content-length ends at the last NUL that is there.",
    BodyRefusedIn10 in V10: "Only SEND may have a body in 1.0.",
    BodyAnywhere: "Any frame may have a body.",

    // Frames to bytes.
    NoEscape: "Headers are written without escapes.",
    BackslashNotEscaped: "A backslash is written as it is.",
    ColonNotEscaped: "A colon in a value is written as it is.",
    CarriageReturnNotEscaped: "A carriage return is written as it is.",
    EscapesIn10Written in V10: "Headers are written with escapes in 1.0.",
    NamesNotEscaped: "Names of headers are written without escapes.",
    CommandLowerCase: "Commands are written in lower case.",
    SpaceBehindColon: "There is a space behind a header's colon.",
    NulMissing: "No NUL ends a frame.",
    LengthWrittenWrong: "content-length counts the NUL too.",
    LengthInCharacters: "content-length is written in characters.",
    LengthNotWritten: "MESSAGE has no content-length.",

    // SEND and MESSAGE.
    SendWithoutDestinationTaken: "A SEND without destination is dropped.",
    SendLate: "The RECEIPT of a SEND comes before its message is in the queue.",
    MessageWithoutSubscription: "MESSAGE has no subscription.",
    MessageWithoutId: "MESSAGE has no message-id.",
    MessageWithoutDestination: "MESSAGE has no destination.",
    SubscriptionWrong: "MESSAGE names another subscription than its own.",
    MessageIdsRepeat: "All messages have the same message-id.",
    DestinationLowerCased: "MESSAGE has its destination in lower case.",
    MessagesReversed: "Of the MESSAGEs that go out together the last comes first.",
    MessageTwice: "Every MESSAGE is sent twice.",
    CustomHeadersLost: "Headers of the application do not reach the receiver.",
    ContentTypeGuessed: "MESSAGE has a content-type where SEND had none.",
    ContentTypeLost: "content-type does not reach the receiver.",
    PropertiesLost: "Headers that are AMQP properties do not reach the receiver.",
    ForgedSubscriptionPasses: "The subscription of a SEND reaches the receiver.",
    ForgedMessageIdPasses: "The message-id of a SEND reaches the receiver.",
    ForgedAckPasses: "The ack of a SEND reaches the receiver.",
    ForgedRedeliveredPasses: "The redelivered of a SEND reaches the receiver.",
    TransactionPasses: "The transaction of a SEND reaches the receiver.",
    EscapesInBody: "Escapes are decoded in bodies.",
    BodyTrimmed: "White space around a body is dropped.",
    BodyEndsAtNul: "A MESSAGE's body ends before its first NUL.",
    BodyLineEndsChanged: "CR LF in a body becomes LF.",
    BodyMadeText: "What is no UTF-8 in a body is replaced.",
    EmptyBodyFilled: "An empty body is sent as `null`.",

    // SUBSCRIBE and UNSUBSCRIBE.
    SubscribeWithoutDestinationTaken: "A SUBSCRIBE without destination is dropped.",
    SubscribeWithoutIdTaken: "SUBSCRIBE needs no id.",
    IdRequiredIn10 in V10: "SUBSCRIBE needs an id in 1.0.",
    SubscribeLate: "The RECEIPT of SUBSCRIBE comes before its effect.",
    SubscribeOvertaken: "A SUBSCRIBE without receipt is overtaken by the frame behind it.",
    IdZeroIsNone: "An id of 0 is none.",
    IdsShort: "An id has at most 64 bytes.",
    SameIdTaken: "Two subscriptions of a session may have the same id.",
    IdsShared: "An id is taken for all sessions of the server.",
    UnknownAckModeTaken: "An unknown ack mode is taken for auto.",
    SelectorRefused: "A selector is refused.",
    UnsubscribeWithoutIdTaken: "An UNSUBSCRIBE without id is ignored.",
    UnsubscribeOfUnknownRefused: "UNSUBSCRIBE of an unknown id ends the session.",
    UnsubscribeIgnored: "UNSUBSCRIBE has no effect.",
    UnsubscribeKeepsSending: "After UNSUBSCRIBE messages still come.",
    UnsubscribeEndsLast: "UNSUBSCRIBE ends the session's last subscription.",
    UnsubscribeEndsAll: "UNSUBSCRIBE ends all subscriptions of the session.",
    IdNotFreed: "An id cannot be used again after UNSUBSCRIBE.",

    // Destinations.
    QueueReachesAll: "A queue's message reaches every subscription.",
    QueueKeepsNothing: "A queue without subscription keeps no messages.",
    QueueIsStack: "A queue's last message comes first.",
    TopicReachesOne: "A topic's message reaches one subscription.",
    QueuesArePerSession: "A queue's messages reach the session that sent them only.",
    QueueGoesWithLastConsumer: "A queue and its messages go with its last subscription.",
    EndedSessionsTakeMessages: "A queue's messages still go to sessions that have ended.",
    TopicsAreQueues: "A topic's message reaches the queue of its name too.",
    TopicsByPrefix: "A topic's message reaches who subscribes the beginning of its name.",
    TopicRetains: "A topic's last message reaches who subscribes later.",
    ThirdMessageLate: "A queue's third message comes behind its fourth.",
    StarIsAnyNumber: "`*` is any number of words.",
    StarIsLiteral: "`*` is a word like any other.",
    HashIsOneOrMore: "`#` is one word at least.",
    HashIsOneAtMost: "`#` is one word at most.",
    HashOnlyAtEnd: "`#` counts only as the last word.",
    SlashesInTopicKept: "Slashes in a topic are no dots.",
    SendToPatternTaken: "One can SEND to a pattern.",
    PercentLost: "%2F in a name is dropped.",
    PercentNotWritten: "A slash in a name is shown as a slash.",
    BareNameUnknown: "A name without a slash is no queue.",
    AmqQueueUnknown: "/amq/queue is no destination.",
    ReplyToPassedOn: "reply-to:/temp-queue reaches the receiver as it is.",
    ReplyWithoutSubscription: "What comes from a reply queue has no subscription.",
    DurableIgnored: "A durable subscription is one like any other.",
    DurableWithoutIdTaken in V10: "A durable subscription needs no id.",
    BlankDestinationTaken: "A blank destination is the queue without a name.",
    AnyDestinationTaken: "A destination with an unknown first word is a queue.",
    DestinationInAnyCase: "The first word of a destination may be in upper case.",
    EmptyNameTaken: "A queue or topic may have no name.",
    QueueWithSlashTaken: "A queue's name may have a slash.",
    TempQueueTaken: "One can SEND to /temp-queue.",
    ReservedNameTaken: "Names that begin with `amq.` are for everybody.",
    ControlInDestinationTaken: "A destination may have control characters.",

    // ACK and NACK.
    AutoIsClient: "ack:auto waits for ACK.",
    DefaultIsClient: "Without an ack header the mode is client.",
    ClientIsAuto: "ack:client waits for no ACK.",
    ClientIsIndividual: "ack:client is taken for client-individual.",
    IndividualIsClient: "ack:client-individual is taken for client.",
    AckHeaderMissing: "MESSAGE has no ack in 1.2.",
    AckHeaderInAuto: "MESSAGE has an ack where it needs no ACK.",
    AckHeaderBefore12 in V11: "MESSAGE has an ack before 1.2.",
    AckAlwaysById in V11: "ACK names a MESSAGE before 1.2 as in 1.2.",
    AckNeedsSubscription in V11: "An ACK of 1.1 needs a subscription.",
    TopicAckRefused: "ACK of a message of a topic ends the session.",
    SecondAckRefused: "ACK of what has been settled ends the session.",
    AckSettlesAll: "An ACK settles all that the session was given.",
    AckIgnored: "ACK has no effect.",
    NackIgnored: "NACK has no effect.",
    NackIsAck: "NACK is taken for ACK.",
    RequeueIgnored: "NACK with requeue:false lets the message come again.",
    CumulativeIsIndividual: "In mode client an ACK settles one message.",
    IndividualIsCumulative: "In mode client-individual an ACK settles all before it.",
    CumulativeEverywhere: "In mode client an ACK settles messages of other subscriptions.",
    NoRedeliveryAfterEnd: "What was not acknowledged when a session ends is lost.",
    NoRedeliveryAfterUnsubscribe: "What was not acknowledged at UNSUBSCRIBE is lost.",
    ReturnsReversed: "What comes back comes in reverse order.",
    RedeliveredMissing: "What comes again does not say so.",
    RedeliveredAlways: "Every MESSAGE says that it comes again.",
    AckWithoutIdTaken: "ACK and NACK without an id are ignored.",
    AckOfUnknownTaken: "ACK of something that never came is ignored.",
    NackOfUnknownTaken: "NACK of something that never came is ignored.",
    AckInAutoTaken: "ACK in mode auto is ignored.",
    AckOfAnotherTaken: "ACK of another session's message is taken.",
    AckAfterUnsubscribeRefused: "ACK after UNSUBSCRIBE ends the session.",
    PrefetchIgnored: "prefetch-count has no effect.",

    // Transactions.
    SendInTransactionAtOnce: "A SEND in a transaction goes out at once.",
    AckInTransactionAtOnce: "An ACK in a transaction counts at once.",
    AllWaitsForCommit: "What is sent beside a transaction waits for its COMMIT.",
    AbortCommits: "ABORT does what COMMIT does.",
    CommitDoesNothing: "COMMIT drops its transaction.",
    CommitReversed: "COMMIT does the last frame first.",
    AbortDropsAll: "ABORT drops what is in the other transactions too.",
    LastTransactionTakesAll: "Of two open transactions the last takes all SENDs.",
    DisconnectCommits: "DISCONNECT commits what is open.",
    LostSocketCommits: "Where a socket is gone, what is open is committed.",
    ErrorCommits: "An ERROR commits what is open.",
    IdNotFreedByCommit: "A transaction's id stays in use after COMMIT.",
    IdNotFreedByAbort: "A transaction's id stays in use after ABORT.",
    TransactionIdsShared: "A transaction's id is taken for all sessions of the server.",
    TransactionIdsPlain: "A transaction's id has letters, digits and hyphens only.",
    AckInUnknownTransactionTaken: "An ACK in an unknown transaction counts at once.",
    BeginTwiceTaken: "BEGIN of an open transaction begins it again.",
    CommitUnknownTaken: "COMMIT of an unknown transaction is ignored.",
    AbortUnknownTaken: "ABORT of an unknown transaction is ignored.",
    SendInUnknownTransactionTaken: "A SEND in an unknown transaction goes out at once.",
    MissingTransactionIgnored: "BEGIN, COMMIT and ABORT without an id are ignored.",

    // RECEIPT, DISCONNECT and ERROR.
    ReceiptOfSendLost: "SEND has no RECEIPT.",
    ReceiptInTransactionLost: "SEND and ACK in a transaction have no RECEIPT.",
    ReceiptOfSubscribeLost: "SUBSCRIBE has no RECEIPT.",
    ReceiptOfUnsubscribeLost: "UNSUBSCRIBE has no RECEIPT.",
    ReceiptOfAckLost: "ACK has no RECEIPT.",
    ReceiptOfNackLost: "NACK has no RECEIPT.",
    ReceiptOfBeginLost: "BEGIN has no RECEIPT.",
    ReceiptOfCommitLost: "COMMIT has no RECEIPT.",
    ReceiptOfAbortLost: "ABORT has no RECEIPT.",
    ReceiptOfDisconnectLost: "DISCONNECT has no RECEIPT.",
    ReceiptIdWrong: "All RECEIPTs have the same receipt-id.",
    FirstReceiptRepeated: "All RECEIPTs of SENDs name the first of them.",
    ReceiptWithBody: "RECEIPT has a body.",
    ReceiptIdsOnce: "A receipt's id that was used before has no RECEIPT.",
    ReceiptIdCut: "A receipt-id has at most 64 bytes.",
    ReceiptsReversed: "Of the RECEIPTs that go out together the last comes first.",
    ReceiptTwice: "Every RECEIPT is sent twice.",
    DisconnectIgnored: "After DISCONNECT the connection stays open.",
    DisconnectReceiptAfterClose: "DISCONNECT with a receipt is answered by a close alone.",
    ErrorWithoutClose: "After ERROR the session goes on.",
    CloseWithoutError: "A mistake is answered by a close alone.",
    ErrorWithoutMessage: "ERROR has no message.",
    ErrorWithoutVersions: "ERROR does not say which versions there are.",
    ErrorWithoutContentType: "ERROR does not say what its body is.",
    ErrorWithoutContentLength: "ERROR does not say how long its body is.",
    ErrorEndsAll: "An ERROR ends all sessions of the server.",
    ErrorWithoutReceiptId: "ERROR does not say which frame it answers.",
    OtherText: "ERROR calls a missing destination by another name.",
    FramesBehindNonsenseDone: "Frames behind one that cannot be read are done.",
    FramesAfterEndExecuted: "Frames behind a DISCONNECT or a mistake are done.",

    // Heart-beats.
    BeatsNeverSent: "No heart-beat is ever sent.",
    BeatsLate: "Heart-beats come half as often as promised.",
    BeatsUnasked: "Heart-beats come although the client wants none.",
    SilenceTolerated: "A client that has promised heart-beats may be silent.",
    SilenceNotTolerated: "A client is taken for gone after a fraction of its interval.",
    ClientBeatsNotCounted: "The client's heart-beats are no sign of life.",
    ClientFramesNotCounted: "The client's frames are no sign of life.",
    ThirdHeartBeatIgnored: "Of three numbers in heart-beat the first two count.",
    BadHeartBeatTaken: "A heart-beat that is no two numbers is taken for 0,0.",
    HeartBeatOf32Bits: "A heart-beat that does not fit in 32 bits is no number.",
    NegativeHeartBeatTaken: "A negative heart-beat is taken for 0.",

    // Limits.
    NoLimitBeforeConnected: "CONNECT may be as big as any frame.",
    FrameUnlimited: "A frame may have any size.",
    LineUnlimited: "A command or a header's value may have any length.",
    NameUnlimited: "A header's name may have any length.",
    FewHeadersTaken: "33 headers are too many.",
    BodiesSmall: "A body of 100 KiB is too big.",
    HeadersUnlimited: "A frame may have any number of headers.",
    DestinationUnlimited: "A destination may have any length.",
    IdUnlimited: "An id may have any length.",
    ReceiptUnlimited: "A receipt may have any length.",
    TransactionNameUnlimited: "A transaction's name may have any length.",
    TransactionsUnlimited: "A session may have any number of open transactions.",

    // WebSocket.
    SubprotocolNotSelected over WsText: "No subprotocol is selected.",
    SubprotocolDecides over WsText: "The subprotocol counts more than accept-version.",
    LowestSubprotocolSelected over WsText: "The lowest subprotocol is selected.",
    FirstSubprotocolSelected over WsText: "The client's first subprotocol is selected, known or not.",
    BinaryAlways over WsText: "Text goes out as binary messages.",
    KindFollowsClient over WsBinary: "To a client that sends binary messages all are binary.",
    KindMayNotChange over WsText: "All messages of a client must be text, or all binary.",
    TextAlways over WsBinary: "What is no UTF-8 goes out as text messages.",
    NotUtf8Taken over WsText: "A text message that is no UTF-8 is taken.",
    NotUtf8Code over WsText: "A text message that is no UTF-8 is closed with 1002.",
    FragmentsNotJoined over WsText: "Of a fragmented message the last frame is taken.",
    MessageUnlimited over WsText: "A message may have any size.",
    UnmaskedTaken over WsText: "A frame that is not masked is taken.",
    ReservedBitTaken over WsText: "A frame with a reserved bit is taken.",
    OpcodeTaken over WsText: "A frame of an unknown opcode is taken.",
    FragmentedControlTaken over WsText: "A control frame may be fragmented.",
    LongControlTaken over WsText: "A control frame may be long.",
    ContinuationOfNothingTaken over WsText: "A continuation of nothing is taken.",
    MessageWithinMessageTaken over WsText: "A message may begin within another.",
    EmptyMessageRefused over WsText: "An empty message is a mistake.",
    PongUnaskedRefused over WsText: "A PONG that nobody asked for is a mistake.",
    CloseNotAnswered over WsText: "A close frame has no answer.",
    CloseOfOneByteTaken over WsText: "A close frame with half a code is taken.",
    PingUnanswered over WsText: "PING has no answer.",
    PongWithoutPayload over WsText: "PONG does not repeat the PING's payload.",
    AnyCloseCodeTaken over WsText: "A close with a code that cannot be is taken.",
    CloseWithoutFrame over WsText: "The connection ends without a close frame.",
    CloseWithoutCode over WsText: "A close frame has no code.",
    CloseCodeAlwaysNormal over WsText: "All closes have code 1000.",
    ErrorCode over WsText: "A close behind an ERROR has code 1000.",
    ProtocolCode over WsText: "A mistake is closed with 1008.",
    PolicyCode over WsText: "A refusal is closed with 1002.",
    TooBigCode over WsText: "What is too big is closed with 1002.",
    DisconnectCode over WsText: "DISCONNECT is closed with 1002.",
}
