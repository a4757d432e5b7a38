import type { OwnedFd } from '../../kernel/index.js'
import { DEFAULT_LIMITS } from '../limits.js'
import { Segment } from '../segment.js'
import { runInSlices } from '../slices.js'
import { StateLog } from '../state-log.js'
import type { FileEnd, FileReading } from './records.js'
import { transcribe } from './transcribe.js'

/**
 * As {@link transcribe}, of a state file that holds more than one segment may have: what of it is in force. It is merged for that, in
 * memory of its own. Where it throws, what stands before the damage has come to the segment too.
 */
export async function condense(fd: OwnedFd, segment: Segment, reading: FileReading): Promise<FileEnd> {
  // A record may be longer than in the file, which says its place there.
  const limits = { ...reading.limits, segmentBytes: DEFAULT_LIMITS.segmentBytes }
  const log = new StateLog({ limits })
  const parts = [Segment.create(1)]
  const next = () => {
    const part = Segment.create(parts.length + 1)
    parts.push(part)
    return part
  }
  try {
    try {
      return await runInSlices(transcribe(fd, parts[0]!, { ...reading, limits }, next))
    } finally {
      for (const part of parts) {
        part.seal()
        await log.adopt(part)
      }
      const [merged] = await log.compact()
      await runInSlices(transcribe(merged!.fd, segment, { ...reading, mayLackMarks: true }))
    }
  } finally {
    log.close()
    for (const part of parts) part.close()
  }
}
