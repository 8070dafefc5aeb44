/** An end that a person can do something about; its message says what. Printed without a stack. */
export class LabFailure extends Error {
  override readonly name = 'LabFailure';
}
