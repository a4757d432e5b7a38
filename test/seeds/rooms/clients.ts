import type { MemberLanguage } from '../../processes/toolchains.js'

/** One small mistake that a change of the member in Python or Go could bring. */
export interface ClientSeed {
  readonly language: MemberLanguage
  readonly part: 'machine' | 'codec' | 'frames' | 'log' | 'writes'
  /** Below the folder of the member. */
  readonly file: string
  /** The source has this text once. */
  readonly find: string
  readonly put: string
}

type Told = readonly [
  language: MemberLanguage,
  part: ClientSeed['part'],
  file: string,
  find: string,
  put: string,
]

/** Chosen from the sources, before the vectors of the log and of changes were made. */
const TOLD: readonly Told[] = [
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "if phase == 'serving' and not event['sealed']:",
    "if phase == 'serving':",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    " or not state['unheard'] or state['link'] != 'up':",
    " or not state['unheard']:",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "role = 'orphan' if phase in ('beginning', 'unfit') else phase",
    "role = 'orphan' if phase in ('beginning',) else phase",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "if state['accepting'] or phase == 'unfit':",
    "if state['accepting']:",
  ],
  [
    'go',
    'machine',
    'machine.go',
    'if s.Phase == "beginning" && s.Epoch == e.Epoch {',
    'if s.Phase == "beginning" {',
  ],
  ['go', 'machine', 'machine.go', '\t\ts.Top = max(s.Top, e.Top)\n', '\t\ts.Top = e.Top\n'],
  [
    'go',
    'machine',
    'machine.go',
    '\t\tif s.Phase == "standby" && s.Accepting {\n\t\t\ts.Accepting = false\n\t\t\treturn s, []effect{{Type: "stopAccepting"}}\n\t\t}\n',
    '',
  ],
  [
    'go',
    'machine',
    'machine.go',
    '\t\tcase s.Phase == "unfit":\n\t\t\ts.Accepting = false\n',
    '\t\tcase s.Phase == "unfit":\n',
  ],
  ['python', 'codec', 'fd_broker/messages.py', 'if at >= end or shift > 63:', 'if at >= end or shift > 28:'],
  ['python', 'codec', 'fd_broker/messages.py', 'at += 8 if wire == _FIXED64 else 4', 'at += 8'],
  [
    'python',
    'codec',
    'fd_broker/messages.py',
    "    if wire != {'u': _VARINT,",
    "    if wire == _FIXED32 and wire != {'u': _VARINT,",
  ],
  [
    'go',
    'codec',
    'protobuf.go',
    '\t\tif number == 0 {\n\t\t\treturn malformed("a field of number 0")\n\t\t}\n',
    '',
  ],
  ['go', 'codec', 'protobuf.go', '\tif wire != expected {\n\t\treturn nil\n\t}\n', '\t_ = expected\n'],
  [
    'python',
    'frames',
    'fd_broker/frames.py',
    'taken, self._fds = self._fds[:fds], self._fds[fds:]',
    'taken, self._fds = self._fds[:fds], []',
  ],
  [
    'python',
    'frames',
    'fd_broker/frames.py',
    '            if len(self._fds) > fds:',
    '            if len(self._fds) >= fds > 0:',
  ],
  [
    'go',
    'frames',
    'frame.go',
    'if len(head) > 1 && head[1] != framingVersion {',
    'if len(head) > frameHeader && head[1] != framingVersion {',
  ],
  [
    'go',
    'frames',
    'frame.go',
    'if len(head) == 0 && len(d.fds) > 0 {',
    'if len(head) == 0 && len(d.fds) > fdsPerBatch {',
  ],
  ['python', 'log', 'fd_broker/segment.py', 'if not sealed or following == size:', 'if not sealed:'],
  [
    'python',
    'log',
    'fd_broker/log.py',
    "if end.get('entries', 0) != self._count or end.get('digest')",
    "if end.get('digest')",
  ],
  [
    'python',
    'log',
    'fd_broker/log.py',
    "'min_reader': max(known.get('min_reader', 0), told.get('min_reader', 0)),",
    "'min_reader': newer.get('min_reader', 0),",
  ],
  ['python', 'log', 'fd_broker/log.py', "if part is None or part.get('index', 0) == 0:", 'if part is None:'],
  ['go', 'log', 'segment.go', 'if length == 0 || following > size {', 'if following > size {'],
  [
    'go',
    'log',
    'statelog.go',
    '\t\t\tif !first && one.Sequence != l.sequence {\n\t\t\t\treturn s.damaged("sequence %d in the same snapshot", one.Sequence)\n\t\t\t}\n',
    '\t\t\t_ = first\n',
  ],
  ['go', 'log', 'statelog.go', '\t\tdelete(l.requests, l.ring[0])\n', ''],
  [
    'go',
    'log',
    'statelog.go',
    '\t\tif !sealed {\n\t\t\treturn nil\n\t\t}\n\t\ts.final = true\n',
    '\t\ts.final = sealed\n',
  ],
  [
    'python',
    'writes',
    'fd_broker/writes.py',
    "        if answer['outcome'] == AGAIN:\n            self._remember(self._sent_away, source)\n",
    '',
  ],
  [
    'python',
    'writes',
    'fd_broker/state.py',
    "if self._log.knows_request(message['request']):",
    "if self._paused and self._log.knows_request(message['request']):",
  ],
  [
    'go',
    'writes',
    'writes.go',
    'if used && schema.MinReader > own.Version {',
    'if used && schema.MinReader > own.Version+1 {',
  ],
  [
    'go',
    'writes',
    'drain.go',
    'said := write{Number: number, Request: asked.request,',
    'said := write{Number: number, Request: newID(),',
  ],
  ['go', 'writes', 'incoming.go', 'len(in.arriving) >= mostArriving:', 'len(in.arriving) < 0:'],
]

/** Chosen from the sources, after them. */
const TOLD_LATER: readonly Told[] = [
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "        return {**state, 'phase': 'serving'}, [_do('thaw')]",
    "        return {**state, 'phase': 'serving'}, []",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "'accepting': True, 'unfit': False, 'unheard': False, 'top'",
    "'accepting': True, 'unheard': False, 'top'",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "[_send('quiesced', epoch=event['epoch'])]) if state['phase'] in ('serving', 'unfit')",
    "[_send('quiesced', epoch=event['epoch'])]) if state['phase'] in ('serving',)",
  ],
  [
    'python',
    'machine',
    'fd_broker/machine.py',
    "effects = [_do('closeListeners')] if state['holds'] else []",
    "effects = [_do('closeListeners')]",
  ],
  [
    'go',
    'machine',
    'machine.go',
    '\tif !e.Restarted || !s.in("ready", "standby") {',
    '\tif !s.in("ready", "standby") {',
  ],
  [
    'go',
    'machine',
    'machine.go',
    '\tif s.Down {\n\t\treturn exit(s)\n\t}\n\treturn exit(s, say("abort"))',
    '\treturn exit(s, say("abort"))',
  ],
  [
    'go',
    'machine',
    'machine.go',
    '\tcase "sealed":\n\t\tif s.in("ready", "orphan") {',
    '\tcase "sealed":\n\t\tif s.in("ready") {',
  ],
  [
    'python',
    'codec',
    'fd_broker/messages.py',
    "        elif kind.startswith('='):",
    "        elif kind.startswith('=') and value:",
  ],
  ['go', 'codec', 'protobuf.go', '\t\tif !utf8.Valid(bytes) {', '\t\tif false && !utf8.Valid(bytes) {'],
  ['go', 'codec', 'protobuf.go', 'if value > uint64(len(rest)) {', 'if value > uint64(len(rest))+1 {'],
  ['go', 'codec', 'protobuf.go', '\t\t\trest = rest[4:]\n', '\t\t\trest = rest[min(8, len(rest)):]\n'],
  [
    'python',
    'frames',
    'fd_broker/frames.py',
    "        if length > MOST_PAYLOAD:\n            raise FdBrokerError('ERR_FDB_FRAME_TOO_LARGE', f'a frame of",
    "        if length > 256 * MOST_PAYLOAD:\n            raise FdBrokerError('ERR_FDB_FRAME_TOO_LARGE', f'a frame of",
  ],
  ['python', 'frames', 'fd_broker/channel.py', 'part = data[:1] if rest else data', 'part = data'],
  ['go', 'frames', 'frame.go', '\tif len(d.fds) < claimed {', '\tif len(d.fds) < claimed-1 {'],
  [
    'python',
    'log',
    'fd_broker/segment.py',
    ' or len(payload) < length or zlib.crc32(payload) != checksum:',
    ' or len(payload) < length:',
  ],
  ['python', 'log', 'fd_broker/log.py', 'segment.epoch <= self.newest', 'segment.epoch < self.newest'],
  [
    'python',
    'log',
    'fd_broker/log.py',
    "[record.get('request', ''), *record['requests']]",
    "[record.get('request', '')]",
  ],
  [
    'python',
    'log',
    'fd_broker/log.py',
    '        if before is not None:\n            self._digest.remove(name.encode(), key.encode(), before[0])\n            self._count -= 1',
    '        if before is not None:\n            self._digest.remove(name.encode(), key.encode(), before[0])',
  ],
  ['go', 'log', 'statelog.go', 'newer.Secret = known.Secret || told.Secret', 'newer.Secret = told.Secret'],
  [
    'go',
    'log',
    'statelog.go',
    '\t\tif one.Part.Index != l.parts.next {',
    '\t\tif one.Part.Index < l.parts.next {',
  ],
  [
    'go',
    'log',
    'segment.go',
    'if told.Format != stateFormat || told.Kind > kindSnapshot {',
    'if told.Format != stateFormat {',
  ],
  [
    'go',
    'log',
    'statelog.go',
    'if one.End.Entries != l.count || one.End.Digest != l.digest.String() {',
    'if one.End.Entries != l.count {',
  ],
  [
    'python',
    'writes',
    'fd_broker/state.py',
    "!= one['mark'] for one in reads)",
    "!= one['mark'] for one in reads if one['mark'])",
  ],
  [
    'python',
    'writes',
    'fd_broker/state.py',
    '((stored is not None or name in given) and version <= known)',
    '(stored is not None or name in given)',
  ],
  ['python', 'writes', 'fd_broker/sections.py', 'entry[0]).digest()[:16]', 'entry[0]).digest()[:32]'],
  [
    'go',
    'writes',
    'incoming.go',
    '\tif asked.Request == "" {\n\t\tdelete(in.arriving, key)\n',
    '\tif asked.Request == "" {\n',
  ],
  [
    'go',
    'writes',
    'writes.go',
    '\tif len(changes) != 1 || changes[0].Op != opDelete {',
    '\tif len(changes) == 0 || changes[0].Op != opDelete {',
  ],
  ['go', 'writes', 'incoming.go', '\tif asked.More {\n\t\tin.answered.add(key)\n\t}\n', ''],
]

export const CLIENT_SEEDS: readonly ClientSeed[] = [...TOLD, ...TOLD_LATER].map(
  ([language, part, file, find, put]) => ({
    language,
    part,
    file,
    find,
    put,
  }),
)
