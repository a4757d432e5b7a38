import { type Check, isMap, map, oneOf, optional, required } from '../../config/check.js'
import { duration } from '../../config/quantity.js'
import { absolutePath } from '../../config/texts.js'
import type { StateFileConfig } from './config.js'

export const stateFileShape = {
  path: required(absolutePath, 'absolute path; its folder must be there; of one service alone'),
  sync: optional(
    alwaysOr(duration(1)),
    '1s',
    '`always`, `never`, or how often what was written is brought to the disk',
  ),
  damaged: optional(
    oneOf('refuse', 'prefix'),
    'refuse',
    'what a start does with a damaged file: nothing, or it takes what stands before the damage',
  ),
}
const stateFileMap = map(stateFileShape)
/** `stateFile: /path` is short for `stateFile: { path: /path }`. */
export const stateFile: Check<StateFileConfig | null> = (value, place) => {
  if (value === 'off' || value === false) return null
  if (isMap(value)) return stateFileMap(value, place)
  const path = absolutePath(value, place)
  return path === undefined ? undefined : stateFileMap({ path }, place)
}

function alwaysOr(check: Check<number>): Check<number | 'always' | 'never'> {
  return (value, place) => (value === 'always' || value === 'never' ? value : check(value, place))
}
