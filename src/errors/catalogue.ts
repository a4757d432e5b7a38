import { JOINING, UPGRADING } from './handoff.js'
import { PROXY, RELAY } from './proxy.js'
import { CALLER, CONTROL, LISTENERS, MACHINE } from './serving.js'
import { LOG, STATE, STATE_FILE, STATE_TOOLS } from './state.js'
import { CHANNEL, MOVING } from './wire.js'

/**
 * Every error that has a code of its own, by area: what docs/errors.md is made of, and the type of the codes. Nothing that an
 * embedder imports loads it: only its type is used.
 */
export const CATALOGUE = {
  'Joining and taking over': JOINING,
  Upgrades: UPGRADING,
  'The state: sections and changes': STATE,
  'The state: its log': LOG,
  'The state: its file': STATE_FILE,
  'Listeners and servers': LISTENERS,
  'What a caller passed': CALLER,
  'The control socket': CONTROL,
  'The machine': MACHINE,
  'Connections that do not move': MOVING,
  'Between two processes': CHANNEL,
  'The proxy': PROXY,
  'The relay': RELAY,
  '`fd-broker state`': STATE_TOOLS,
}

type Areas = typeof CATALOGUE

/** A code with an entry of its own. */
export type CatalogueCode = { [Area in keyof Areas]: keyof Areas[Area] }[keyof Areas]
