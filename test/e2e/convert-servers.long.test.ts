import { expect, it } from 'vitest'
import { haproxyFiles, haproxyRequests } from '../convert-support/haproxy-files.js'
import { judgeHaproxy } from '../convert-support/haproxy-judge.js'
import { nginxFiles, nginxRequests } from '../convert-support/nginx-files.js'
import { judgeNginx } from '../convert-support/nginx-judge.js'
import { type Asked, Places } from '../convert-support/places.js'
import fc from '../lanes/generated.js'
import { has } from '../processes/toolchains.js'

/** `FDB_CONVERT_MS` has more. */
const MS = Number(process.env.FDB_CONVERT_MS ?? 30_000)
/** `FDB_CONVERT_SEED` repeats a run. */
const SEED = process.env.FDB_CONVERT_SEED
/** Time for the comparison that is under way then, on a busy machine. */
const LAST_MS = 150_000

/** Asks both servers, with one file after the other, until the time is over. A failure names both files, the seed and the first differences. */
async function compare(
  language: 'nginx' | 'haproxy',
  files: fc.Arbitrary<string>,
  requests: fc.Arbitrary<Asked[]>,
): Promise<{ files: number; compared: number; strict: number }> {
  const places = await Places.open(language)
  const count = { files: 0, compared: 0, strict: 0 }
  let last: Promise<void> = Promise.resolve()
  const compareOne = async (text: string, asked: Asked[]) => {
    const result = await places.compare(text, asked)
    // The other server refuses the file.
    if (result === null) return
    const { conversion, theirs, ours } = result
    const { differences, strict } =
      language === 'haproxy'
        ? await judgeHaproxy(places, text, conversion, asked, theirs, ours)
        : await judgeNginx(places, text, conversion, asked, theirs, ours)
    count.files += 1
    count.compared += asked.length
    count.strict += strict
    if (differences.length > 0)
      throw new Error(
        [text, conversion!.yaml, ...differences.slice(0, 3).map(each => JSON.stringify(each))].join('\n'),
      )
  }
  const property = fc.asyncProperty(files, requests, (text, asked) => (last = compareOne(text, asked)))
  const seed = SEED === undefined ? {} : { seed: Number(SEED) }
  try {
    await fc.assert(property, { numRuns: 100_000, interruptAfterTimeLimit: MS, ...seed })
  } finally {
    // The time may be over in the midst of a comparison.
    await last.catch(() => {})
  }
  return count
}

it.skipIf(!has('nginx'))(
  'random files of nginx lead requests where nginx does, and are never open where it refuses',
  async ({ annotate }) => {
    const { files, compared, strict } = await compare('nginx', nginxFiles, nginxRequests)
    await annotate(`${files} files, ${compared} requests, ${strict} compared in all parts`)
    expect(compared).toBeGreaterThan(0)
    expect(strict).toBeGreaterThan(0)
  },
  MS + LAST_MS,
)

it.skipIf(!has('haproxy'))(
  'random files of HAProxy lead requests where HAProxy does, and are never open where it refuses',
  async ({ annotate }) => {
    const { files, compared, strict } = await compare('haproxy', haproxyFiles, haproxyRequests)
    await annotate(`${files} files, ${compared} requests, ${strict} compared in all parts`)
    expect(compared).toBeGreaterThan(0)
    expect(strict).toBeGreaterThan(0)
  },
)
