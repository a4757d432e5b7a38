import { absent, absolutePath, type Check, integer, list, map, refine, shown } from '../../config/check.js'
import { ANYONE, OWNER } from './owners-only.js'
import type { Who } from './policy.js'

/** One less is "no change" to the kernel. */
const MOST_ID = 2 ** 32 - 2
const MOST = 100

export const whoShape = {
  uid: absent(integer(0, MOST_ID), null, 'its effective user, as a number'),
  gid: absent(integer(0, MOST_ID), null, 'its effective group, as a number'),
  executable: absent(absolutePath, null, 'the program that it runs'),
}

const described: Check<Who> = refine(map(whoShape), (given, place) =>
  Object.values(given).every(value => value === null)
    ? place.wrong('it says of nobody who it is; give uid, gid or executable, or write "anyone"')
    : { ...ANYONE, ...given },
)

const one: Check<Who> = (value, place) => {
  if (value === 'owner') return OWNER
  if (value === 'anyone') return ANYONE
  return typeof value === 'string'
    ? place.wrong(`${shown(value)} is none of "owner", "anyone" and a map of uid, gid and executable`)
    : described(value, place)
}

/** Who may; an empty list: nobody. */
export const whoList: Check<Who[]> = list(one, { most: MOST })
