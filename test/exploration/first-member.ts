import { initialMember, type MemberState } from '../../src/handoff/member-machine.js'

/** The member of the first process of a service. */
export const FIRST_MEMBER: MemberState = {
  ...initialMember('holder'),
  phase: 'serving',
  holds: true,
  accepting: true,
  epoch: 0,
  top: 0,
  link: 'local',
}
