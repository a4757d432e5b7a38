import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { bundled } from '../../processes/bundled.js'

describe('a segment that may not grow', () => {
  it('keeps the whole records of a write that was cut short, refuses the rest, and takes what fits later', async () => {
    // 40 blocks of 512 bytes; the signal that comes with the limit is ignored, so that write() says EFBIG.
    const script = 'trap "" XFSZ; ulimit -f 40; exec "$0" "$1"'
    const { file, env } = bundled('state-full.ts')
    const { stdout } = await promisify(execFile)('sh', ['-c', script, process.execPath, file], {
      env: { ...env, NODE_V8_COVERAGE: '' },
    })
    expect(JSON.parse(stdout)).toEqual({
      results: [
        'a done',
        'b done',
        'c ERR_FDB_STATE_FULL RLIMIT_FSIZE',
        'd ERR_FDB_STATE_FULL RLIMIT_FSIZE',
        'e ERR_FDB_STATE_FULL RLIMIT_FSIZE',
        'f done',
      ],
      keys: ['a', 'b', 'f'],
      same: true,
      cut: true,
      end: true,
    })
  })
})
