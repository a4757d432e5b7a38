package fdbroker

// The messages of proto/wire.proto and proto/state.proto that a member reads or writes; `pb` is the number of a field. Other
// messages and fields are skipped.

type envelope struct {
	Hello          *hello          `pb:"1"`
	Welcome        *welcome        `pb:"2"`
	Reject         *reject         `pb:"3"`
	Offer          *offer          `pb:"4"`
	Fds            *fds            `pb:"5"`
	FdsAck         *fdsAck         `pb:"6"`
	Ready          *ready          `pb:"7"`
	Freeze         *empty          `pb:"8"`
	Frozen         *at             `pb:"9"`
	Sealed         *at             `pb:"10"`
	Prepared       *at             `pb:"11"`
	Commit         *granted        `pb:"12"`
	Serving        *granted        `pb:"13"`
	Retire         *givenUp        `pb:"14"`
	Resume         *empty          `pb:"15"`
	Reinstate      *granted        `pb:"16"`
	Released       *givenUp        `pb:"17"`
	Fenced         *empty          `pb:"18"`
	Abort          *abort          `pb:"19"`
	Gone           *empty          `pb:"20"`
	Back           *back           `pb:"21"`
	Heartbeat      *heartbeat      `pb:"22"`
	EndProbation   *endProbation   `pb:"23"`
	Register       *register       `pb:"24"`
	Registered     *registered     `pb:"25"`
	StatusRequest  *empty          `pb:"30"`
	Status         *status         `pb:"31"`
	UpgradeRequest *upgradeRequest `pb:"32"`
	Progress       *progress       `pb:"33"`
	Result         *result         `pb:"34"`
	Command        *command        `pb:"35"`
	CommandReply   *commandReply   `pb:"36"`
	Write          *write          `pb:"43"`
	Written        *written        `pb:"44"`
	Unfit          *unfit          `pb:"47"`
	Quiesce        *granted        `pb:"50"`
	Quiesced       *granted        `pb:"51"`
	Unquiesce      *empty          `pb:"52"`
	CancelUpgrade  *cancelUpgrade  `pb:"56"`
	TellAppended   *tellAppended   `pb:"70"`
	Appended       *empty          `pb:"71"`
}

// alternatives marks a message of which only one field is told: the last one counts.
func (envelope) alternatives() {}

type empty struct{}

// givenUp has the names of listeners that the version which serves does not use.
type givenUp struct {
	Names []string `pb:"1"`
}

type hello struct {
	VersionMin       uint64        `pb:"1"`
	VersionMax       uint64        `pb:"2"`
	Capabilities     []string      `pb:"3"`
	Service          string        `pb:"4"`
	Intent           uint64        `pb:"5"`
	Pid              uint64        `pb:"6"`
	Generation       uint64        `pb:"8"`
	Incarnation      string        `pb:"9"`
	Top              uint64        `pb:"10"`
	Times            *handoffTimes `pb:"11"`
	Instance         string        `pb:"12"`
	StateFile        string        `pb:"13"`
	Follower         string        `pb:"14"`
	ServiceStartedAt float64       `pb:"15"`
}

// handoffTimes are milliseconds; nil: not told, which is not the same as 0.
type handoffTimes struct {
	Ready     *uint64 `pb:"1"`
	Freeze    *uint64 `pb:"2"`
	Prepare   *uint64 `pb:"3"`
	Commit    *uint64 `pb:"4"`
	Probation *uint64 `pb:"5"`
	Heartbeat *uint64 `pb:"6"`
	Silence   *uint64 `pb:"7"`
	Quiesce   *uint64 `pb:"8"`
}

type welcome struct {
	Version          uint64   `pb:"1"`
	Capabilities     []string `pb:"2"`
	Pid              uint64   `pb:"3"`
	Daemon           bool     `pb:"4"`
	Incarnation      string   `pb:"5"`
	Generation       uint64   `pb:"6"`
	ServiceStartedAt float64  `pb:"7"`
	HeartbeatMs      uint64   `pb:"8"`
}

type reject struct {
	Code       string `pb:"1"`
	Message    string `pb:"2"`
	Retryable  bool   `pb:"3"`
	VersionMin uint64 `pb:"4"`
	VersionMax uint64 `pb:"5"`
}

type offer struct {
	Epoch       uint64 `pb:"1"`
	WayBack     uint64 `pb:"2"`
	Source      uint64 `pb:"3"`
	Items       uint64 `pb:"4"`
	TimeoutMs   uint64 `pb:"5"`
	QuiesceMs   uint64 `pb:"6"`
	Descriptors uint64 `pb:"7"`
}

type fds struct {
	Index  uint64 `pb:"1"`
	Last   bool   `pb:"2"`
	Items  []item `pb:"3"`
	Bundle uint64 `pb:"4"`
}

type item struct {
	Role     uint64    `pb:"1"`
	Name     string    `pb:"2"`
	Spec     string    `pb:"3"`
	Epoch    uint64    `pb:"4"`
	Writable bool      `pb:"5"`
	Identity *identity `pb:"6"`
}

const (
	roleListener = 1
	roleNamed    = 2
	roleSegment  = 3
	rolePidfd    = 6
)

type identity struct {
	Type       string `pb:"1"`
	Dev        string `pb:"2"`
	Ino        string `pb:"3"`
	Family     string `pb:"4"`
	SocketType string `pb:"5"`
	Protocol   uint64 `pb:"6"`
	Accepting  bool   `pb:"7"`
	Cookie     string `pb:"8"`
	Address    string `pb:"9"`
	Port       uint64 `pb:"10"`
	Abstract   bool   `pb:"11"`
}

type fdsAck struct {
	Index    uint64 `pb:"1"`
	Verified uint64 `pb:"2"`
	Bundle   uint64 `pb:"3"`
}

type position struct {
	Epoch    uint64  `pb:"1"`
	Sequence float64 `pb:"2"`
	Digest   string  `pb:"3"`
}

type ready struct {
	Adopted  []string  `pb:"1"`
	Refused  []string  `pb:"2"`
	Position *position `pb:"3"`
}

type at struct {
	Position *position `pb:"1"`
}

type granted struct {
	Epoch uint64 `pb:"1"`
}

type abort struct {
	Code    string `pb:"1"`
	Message string `pb:"2"`
	Phase   string `pb:"3"`
}

type unfit struct {
	Epoch   uint64 `pb:"1"`
	Code    string `pb:"2"`
	Message string `pb:"3"`
}

type back struct {
	Role   string `pb:"1"`
	Epoch  uint64 `pb:"2"`
	Sealed bool   `pb:"3"`
	Top    uint64 `pb:"4"`
	Unfit  bool   `pb:"5"`
}

type heartbeat struct {
	Healthy bool   `pb:"1"`
	Report  string `pb:"2"`
	Unwell  string `pb:"3"`
	// RollsBack: an operator has ordered a rollback, and the sender's work has ended.
	RollsBack bool `pb:"4"`
}

type cancelUpgrade struct {
	Code    string `pb:"1"`
	Message string `pb:"2"`
}

type endProbation struct {
	Closing bool `pb:"1"`
}

type register struct {
	Request   uint64 `pb:"1"`
	Item      *item  `pb:"2"`
	Drop      bool   `pb:"3"`
	Compacted bool   `pb:"4"`
}

type registered struct {
	Request uint64 `pb:"1"`
	Code    string `pb:"2"`
	Message string `pb:"3"`
}

type status struct {
	JSON string `pb:"1"`
}

type upgradeRequest struct {
	Argv      []string `pb:"1"`
	TimeoutMs uint64   `pb:"2"`
	Service   string   `pb:"3"`
	KillStuck bool     `pb:"4"`
	Request   uint64   `pb:"5"`
}

type progress struct {
	Phase string  `pb:"1"`
	At    float64 `pb:"2"`
	Pid   uint64  `pb:"3"`
}

type result struct {
	OK         bool   `pb:"1"`
	Code       string `pb:"2"`
	Message    string `pb:"3"`
	Pid        uint64 `pb:"4"`
	Generation uint64 `pb:"5"`
	Retryable  bool   `pb:"6"`
	Phase      string `pb:"7"`
	Request    uint64 `pb:"8"`
}

type command struct {
	Name    string `pb:"1"`
	Body    []byte `pb:"2"`
	Service string `pb:"3"`
	Request uint64 `pb:"4"`
}

type commandReply struct {
	Request   uint64 `pb:"1"`
	OK        bool   `pb:"2"`
	Code      string `pb:"3"`
	Message   string `pb:"4"`
	Retryable bool   `pb:"5"`
	Body      []byte `pb:"6"`
}

type tellAppended struct {
	Wanted bool `pb:"1"`
}

type write struct {
	Number  uint64      `pb:"1"`
	Request string      `pb:"2"`
	Parts   [][]byte    `pb:"3"`
	More    bool        `pb:"4"`
	Reads   []entryRead `pb:"5"`
	Source  uint64      `pb:"6"`
	Durable bool        `pb:"7"`
}

type entryRead struct {
	Section string `pb:"1"`
	Key     string `pb:"2"`
	Mark    []byte `pb:"3"`
}

type written struct {
	Number    uint64  `pb:"1"`
	Outcome   uint64  `pb:"2"`
	Existed   bool    `pb:"3"`
	Sequence  float64 `pb:"4"`
	Code      string  `pb:"5"`
	Message   string  `pb:"6"`
	Retryable bool    `pb:"7"`
}

const (
	outcomeApplied  = 1
	outcomeConflict = 2
	outcomeAgain    = 3
	outcomeRefused  = 4
)

// header is a message of proto/state.proto, like the next ones.

type header struct {
	Magic   string `pb:"1"`
	Format  uint64 `pb:"2"`
	Epoch   uint64 `pb:"3"`
	Kind    uint64 `pb:"4"`
	Service string `pb:"5"`
}

type record struct {
	Epoch    uint64          `pb:"1"`
	Sequence uint64          `pb:"2"`
	Request  string          `pb:"3"`
	Changes  []change        `pb:"4"`
	Schemas  []sectionSchema `pb:"5"`
	Requests []string        `pb:"6"`
	End      *end            `pb:"7"`
	Part     *part           `pb:"8"`
}

type part struct {
	Index uint64 `pb:"1"`
	Last  bool   `pb:"2"`
}

type change struct {
	Section string `pb:"1"`
	Op      uint64 `pb:"2"`
	Key     string `pb:"3"`
	Value   []byte `pb:"4"`
	Version uint64 `pb:"5"`
}

const (
	opPut    = 0
	opDelete = 1
	opClear  = 2
)

type sectionSchema struct {
	Name      string `pb:"1"`
	Version   uint64 `pb:"2"`
	MinReader uint64 `pb:"3"`
	Codec     string `pb:"4"`
	Secret    bool   `pb:"5"`
}

type end struct {
	Entries uint64 `pb:"1"`
	Digest  string `pb:"2"`
}
