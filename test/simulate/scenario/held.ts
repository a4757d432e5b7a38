import type { Member } from '../../../src/member/member.js'
import type { Code } from '../globals.js'
import type { SimulatedProcess } from '../process.js'

const NAME = 'kept'
const LEAST_PAUSE_MS = 50
const MOST_PAUSE_MS = 300
const NUMBER_BYTES = 4

/** A descriptor that the versions of a service give a name, again and again: a memory file with a number, each higher than the one before. */
export class Held {
  #last = 0
  /** The number of the last descriptor that the service has taken. */
  #taken = 0
  /** Descriptors that a version lacked when it served. */
  readonly wrong: string[] = []

  /** A version has begun without the descriptors of earlier ones. */
  startAgain(): void {
    this.#taken = 0
  }

  /** Asks for the descriptor before `ready()`: the service closes those for which a version has not asked. */
  adopt(member: Member): void {
    member.held(NAME)?.close()
  }

  /** Names descriptors while the version serves. Ends with its process. */
  async repeat(code: Code, p: SimulatedProcess, member: Member): Promise<void> {
    for (;;) {
      await new Promise<void>(resolve =>
        p.setTimer(resolve, LEAST_PAUSE_MS + p.world.below(MOST_PAUSE_MS - LEAST_PAUSE_MS)),
      )
      if (member.phase === 'leaving' || member.phase === 'gone') return
      if (member.phase === 'serving') await this.#hold(code, p, member)
    }
  }

  async #hold(code: Code, p: SimulatedProcess, member: Member): Promise<void> {
    const number = ++this.#last
    const taken = this.#taken
    const bytes = Buffer.alloc(NUMBER_BYTES)
    bytes.writeUInt32BE(number)
    try {
      const present = numberOf(code, member)
      const fd = code.OwnedFd.own(code.addon.memfd(NAME), NAME)
      code.addon.pwrite(code.numbersOf([fd])[0]!, bytes, 0, bytes.length, 0)
      await member.hold(NAME, fd)
      // A version that has not heard yet that another one serves may lack some: its call rejects.
      if (present < taken) this.wrong.push(`descriptor ${taken} was named, and ${p.name} has ${present}`)
      this.#taken = number
      p.world.note(p, `has named descriptor ${number}`)
    } catch (error) {
      p.world.note(p, `a descriptor was not named: ${(error as { code?: string }).code}`)
    }
  }
}

/** Returns the number of the descriptor that the member has; 0 without one. */
function numberOf(code: Code, member: Member): number {
  const fd = member.held(NAME)
  if (fd === undefined) return 0
  const bytes = Buffer.alloc(NUMBER_BYTES)
  code.addon.pread(code.numbersOf([fd])[0]!, bytes, 0, bytes.length, 0)
  fd.close()
  return bytes.readUInt32BE()
}
