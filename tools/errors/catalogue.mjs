// @ts-check
import { JOINING, UPGRADING } from './handoff.mjs'
import { PROXY, RELAY } from './proxy.mjs'
import { CALLER, CONTROL, LISTENERS, MACHINE } from './serving.mjs'
import { LOG, SOURCES, STATE, STATE_FILE, STATE_TOOLS } from './state.mjs'
import { CHANNEL, MOVING } from './wire.mjs'

/**
 * The cause of an error and its remedy: Markdown sentences without the final full stop.
 *
 * @typedef {{ readonly cause: string, readonly remedy: string }} Explanation
 */

/** @typedef {Partial<Record<import('../../src/errors.js').FdbErrorCode, Explanation>>} Explanations */

/**
 * All codes of src/errors/codes.ts by area, in the order of docs/errors.md.
 *
 * @type {Record<string, Explanations>}
 */
export const CATALOGUE = {
  'Joining and taking over': JOINING,
  Upgrades: UPGRADING,
  'The state: sections and changes': STATE,
  'The state: its log': LOG,
  'The state: its file': STATE_FILE,
  'Listeners and servers': LISTENERS,
  Arguments: CALLER,
  'The control socket': CONTROL,
  'The machine': MACHINE,
  'Connections that do not move': MOVING,
  'Between two processes': CHANNEL,
  'The proxy': PROXY,
  'The relay': RELAY,
  Sources: SOURCES,
  '`fd-broker state`': STATE_TOOLS,
}
