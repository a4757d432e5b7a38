import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Segment } from '../../src/state/segment.js'

/**
 * Has the first page of a segment in a pipe of another process until that has done what `until` says, in Python. The kernel seals no
 * memory of which a page is held.
 */
export async function holdPage(segment: Segment, until: string): Promise<{ end: () => Promise<void> }> {
  const program = `
import os, sys, time
out, into = os.pipe()
os.splice(3, into, 4096, offset_src=0)
print('held', flush=True)
${until}
os.read(out, 65536)
`
  const holder = spawn('python3', ['-c', program], { stdio: ['pipe', 'pipe', 'inherit', segment.fd.raw] })
  const exited = once(holder, 'exit')
  await once(holder.stdout!, 'data')
  return {
    end: async () => {
      holder.stdin!.end()
      await exited
    },
  }
}
