package fdbroker

// The decisions of a member of a daemon, and their order: a pure function, which test/vectors/member.json holds to the real one. The
// caller does all that may fail, and the outcome is the next event.

type memberState struct {
	Phase     string
	Holds     bool
	Accepting bool
	Epoch     int64
	Source    int64
	WayBack   int64
	Top       int64
	Down      bool
	Unfit     bool
	// Unheard: it stood by, and accepts only because its holder is silent.
	Unheard bool
}

func initialMember() memberState {
	return memberState{Phase: "joining", Epoch: -1, Source: -1, WayBack: -1, Top: -1}
}

// event is one thing that happens to a member.
type event struct {
	Type    string `json:"type"`
	Message *order `json:"message"`
	// Sealed is what the kernel says now of the segment that the message names (commit, reinstate), else of its own.
	Sealed    bool   `json:"sealed"`
	Fate      string `json:"fate"`
	Effect    string `json:"effect"`
	Epoch     int64  `json:"epoch"`
	Restarted bool   `json:"restarted"`
	Top       int64  `json:"top"`
}

// order is what the holder says.
type order struct {
	Kind    string `json:"kind"`
	Epoch   int64  `json:"epoch"`
	WayBack int64  `json:"wayBack"`
	Source  int64  `json:"source"`
}

// effect is one thing to be done.
type effect struct {
	Type    string `json:"type"`
	Message *said  `json:"message"`
	Epoch   int64  `json:"epoch"`
	Below   int64  `json:"below"`
}

// said is what a member says to its holder.
type said struct {
	Kind   string `json:"kind"`
	Epoch  int64  `json:"epoch"`
	Role   string `json:"role"`
	Top    int64  `json:"top"`
	Sealed bool   `json:"sealed"`
	Unfit  bool   `json:"unfit"`
}

func say(kind string) effect { return effect{Type: "send", Message: &said{Kind: kind}} }

func sayOf(kind string, epoch int64) effect {
	return effect{Type: "send", Message: &said{Kind: kind, Epoch: epoch}}
}

func (s memberState) in(phases ...string) bool {
	for _, phase := range phases {
		if s.Phase == phase {
			return true
		}
	}
	return false
}

func (s memberState) over() bool    { return s.in("leaving", "gone") }
func (s memberState) joining() bool { return s.in("joining", "ready") }

func (s memberState) to(phase string) memberState {
	s.Phase = phase
	return s
}

// stepMember gives the next state, and what is to be done, in this order.
func stepMember(s memberState, e event) (memberState, []effect) {
	switch e.Type {
	case "message":
		return onMessage(s, e)
	case "adopted":
		if s.Phase != "joining" || !s.Holds {
			return s, nil
		}
		if s.Down {
			return s.to("ready"), []effect{{Type: "judge"}, {Type: "reconnect"}}
		}
		return s.to("ready"), []effect{say("ready")}
	case "refused":
		if s.joining() {
			return giveUp(s)
		}
	case "lost":
		return onLost(s)
	case "deadline":
		return onDeadline(s)
	case "fate":
		return onFate(s, e)
	case "silent":
		if s.in("ready", "standby") {
			s.Unheard = s.Phase == "standby" && !s.Accepting
			return orphan(s)
		}
	case "heard":
		if s.Phase == "orphan" && s.Unheard && !s.Down {
			s.Accepting, s.Unheard = false, false
			return s.to("standby"), []effect{{Type: "stopAccepting"}}
		}
	case "quiesced":
		if s.in("serving", "unfit") {
			return s, []effect{sayOf("quiesced", e.Epoch)}
		}
	case "begun":
		if s.Phase == "beginning" && s.Epoch == e.Epoch {
			return s.to("serving"), []effect{sayOf("serving", e.Epoch)}
		}
	case "failed":
		return onFailed(s, e)
	case "reconnected":
		return onReconnected(s, e)
	case "shared":
		s.Top = max(s.Top, e.Top)
	case "leave":
		if s.joining() {
			return giveUp(s)
		}
		if !s.over() {
			return leave(s)
		}
	case "drained":
		if s.Phase == "leaving" {
			return s.to("gone"), []effect{{Type: "exit"}}
		}
	}
	return s, nil
}

func onMessage(s memberState, e event) (memberState, []effect) {
	m := e.Message
	switch m.Kind {
	case "offer":
		if s.Phase == "joining" && !s.Holds {
			s.Holds, s.Epoch, s.WayBack, s.Source = true, m.Epoch, m.WayBack, m.Source
			s.Top = max(s.Top, m.WayBack)
		}
	case "quiesce":
		if s.in("serving", "unfit") {
			return s, []effect{{Type: "quiesce", Epoch: m.Epoch}}
		}
	case "unquiesce":
		if s.Phase == "serving" {
			return s, []effect{{Type: "unquiesce"}}
		}
	case "freeze":
		if s.Phase == "unfit" {
			return s, []effect{say("frozen")}
		}
		if s.Phase == "serving" {
			return s.to("frozen"), []effect{{Type: "freeze"}, say("frozen")}
		}
	case "sealed":
		if s.in("ready", "orphan") {
			return s, []effect{{Type: "carry", Below: s.Epoch}, say("prepared")}
		}
	case "commit":
		// Turned away before it began, if the segment is sealed: who decides says what follows.
		if s.in("ready", "orphan") && !e.Sealed {
			return begin(s, m.Epoch)
		}
	case "retire":
		if s.Phase == "standby" && s.Accepting {
			s.Accepting = false
			return s, []effect{{Type: "stopAccepting"}}
		}
		if s.in("beginning", "serving", "unfit", "frozen", "orphan") {
			s.Accepting, s.Unheard = false, false
			return s.to("standby"), []effect{{Type: "endWriting"}, {Type: "stopAccepting"}}
		}
	case "resume":
		// The member must accept, whether or not it hears its holder.
		s.Unheard = s.Unheard && s.Phase != "orphan"
		if s.in("standby", "unfit") && !s.Accepting {
			s.Accepting = true
			return s, []effect{{Type: "accept"}}
		}
	case "reinstate":
		if !e.Sealed && s.Holds && s.Phase != "joining" && !s.over() {
			return begin(s, m.Epoch)
		}
	case "released":
		if s.in("standby", "orphan") {
			return leave(s)
		}
	case "fenced", "abort":
		if s.joining() {
			return giveUp(s)
		}
		if !s.over() {
			return leave(s)
		}
	}
	return s, nil
}

// begin accepts first, then takes over what others acknowledged, then writes; Serving is said when all that is done.
func begin(s memberState, epoch int64) (memberState, []effect) {
	var effects []effect
	if !s.Accepting {
		effects = append(effects, effect{Type: "accept"})
	}
	s.Phase, s.Epoch, s.Accepting, s.Unfit, s.Unheard, s.Top = "beginning", epoch, true, false, false, max(s.Top, epoch)
	return s, append(effects, effect{Type: "carry", Below: epoch}, effect{Type: "write", Epoch: epoch})
}

func onFailed(s memberState, e event) (memberState, []effect) {
	switch e.Effect {
	case "back":
		return onLost(s)
	case "follow":
		if s.Phase == "standby" && !s.Unfit {
			return sayUnfit(s)
		}
		return s, nil
	case "accept":
		switch {
		case s.Phase == "beginning":
			s.Accepting = false
			return turnUnfit(s)
		case s.Phase == "unfit":
			s.Accepting = false
		case s.Phase == "standby" && s.Accepting:
			s.Accepting = false
			return sayUnfit(s, effect{Type: "stopAccepting"})
		}
		return s, nil
	}
	if e.Epoch != s.Epoch {
		return s, nil
	}
	if s.Phase == "beginning" {
		return turnUnfit(s)
	}
	if s.Phase == "ready" && !s.Down {
		return giveUp(s)
	}
	return s, nil
}

func turnUnfit(s memberState) (memberState, []effect) {
	return sayUnfit(s.to("unfit"), effect{Type: "endWriting"})
}

func sayUnfit(s memberState, before ...effect) (memberState, []effect) {
	s.Unfit = true
	if s.Down {
		return s, before
	}
	return s, append(before, sayOf("unfit", s.Epoch))
}

func onLost(s memberState) (memberState, []effect) {
	if s.Down {
		return s, nil
	}
	s.Down = true
	switch {
	case s.Phase == "joining" && s.Holds:
		return s, []effect{{Type: "judge"}}
	case s.Phase == "joining":
		return exit(s)
	case s.over():
		return s, nil
	}
	return s, []effect{{Type: "reconnect"}}
}

func onDeadline(s memberState) (memberState, []effect) {
	switch {
	case s.Phase == "joining" && !s.Holds:
		return giveUp(s)
	case s.joining():
		return s, []effect{{Type: "judge"}}
	case s.Phase == "frozen":
		return s.to("serving"), []effect{{Type: "thaw"}}
	}
	return s, nil
}

func onFate(s memberState, e event) (memberState, []effect) {
	if e.Fate == "alive" {
		if s.Phase == "joining" || (s.Phase == "ready" && !s.Down) {
			return giveUp(s)
		}
		return s, nil
	}
	s.Down = true
	if s.Phase == "serving" && !e.Sealed {
		return s, []effect{{Type: "unquiesce"}}
	}
	if s.in("ready", "standby") {
		return orphan(s)
	}
	return s, nil
}

// orphan: a dead or stopped holder does not serve clients, so the orphan has to accept.
func orphan(s memberState) (memberState, []effect) {
	if s.Accepting {
		return s.to("orphan"), nil
	}
	s.Accepting = true
	return s.to("orphan"), []effect{{Type: "accept"}}
}

func onReconnected(s memberState, e event) (memberState, []effect) {
	if s.Phase == "joining" || s.over() {
		return s, nil
	}
	role := s.Phase
	if s.in("beginning", "unfit") {
		role = "orphan"
	}
	told := effect{Type: "send", Message: &said{
		Kind: "back", Role: role, Epoch: s.Epoch, Top: s.Top, Sealed: e.Sealed, Unfit: s.Unfit,
	}}
	s.Down, s.Unheard = false, false
	if !e.Restarted || !s.in("ready", "standby") {
		return s, []effect{told}
	}
	// The new holder does not know yet who serves: until it does, everybody who can, accepts.
	s, effects := orphan(s)
	return s, append(effects, told)
}

// giveUp, before Commit: leaves nothing behind, and says that it is so.
func giveUp(s memberState) (memberState, []effect) {
	if s.Down {
		return exit(s)
	}
	return exit(s, say("abort"))
}

func exit(s memberState, farewell ...effect) (memberState, []effect) {
	var effects []effect
	if s.Holds {
		effects = append(effects, effect{Type: "closeListeners"})
	}
	s.Phase, s.Holds, s.Accepting = "gone", false, false
	return s, append(append(effects, farewell...), effect{Type: "exit"})
}

// leave, after having served: closes the listeners, drains, then ends.
func leave(s memberState) (memberState, []effect) {
	var effects []effect
	if s.in("beginning", "serving", "unfit", "frozen") {
		effects = append(effects, effect{Type: "endWriting"})
	}
	if s.Accepting || s.Phase == "unfit" {
		effects = append(effects, effect{Type: "stopAccepting"})
	}
	effects = append(effects, effect{Type: "closeListeners"})
	if !s.Down {
		effects = append(effects, say("gone"))
	}
	s.Phase, s.Holds, s.Accepting = "leaving", false, false
	return s, append(effects, effect{Type: "drain"})
}
