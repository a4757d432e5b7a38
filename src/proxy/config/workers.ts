import { type Check, integer, isMap, map, oneOf, optional, orOff, required } from '../../config/check.js'
import { duration } from '../../config/quantity.js'
import type { WorkersConfig } from './config.js'

const MOST = 256

const count: Check<number | 'auto'> = (value, place) =>
  value === 'auto' ? value : integer(1, MOST)(value, place)

export const workersShape = {
  count: required(count, `so many processes (1 to ${MOST}); \`auto\`: one for each processor`),
  replace: optional(
    oneOf('one-by-one', 'at-once'),
    'one-by-one',
    'how an upgrade replaces them when the first has been: one after the other, or all the others at once',
  ),
  stopTimeout: optional(
    orOff(duration(1)),
    '30s',
    'at TERM: a worker that has not stopped serving by then is killed; `off`: it is waited for',
  ),
  hungTimeout: optional(
    orOff(duration(2_000)),
    '10s',
    'a worker that lives and is silent for so long is replaced; `off`: never',
  ),
}
const workersMap = map(workersShape)
/** `workers: 4` is short for `workers: { count: 4 }`. */
export const workers: Check<WorkersConfig | null> = (value, place) => {
  if (value === 'off' || value === false) return null
  if (isMap(value)) return workersMap(value, place)
  const given = count(value, place)
  return given === undefined ? undefined : workersMap({ count: given }, place)
}
