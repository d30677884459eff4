"""Methods that need a forward of their own, one file each. Each answers what a teacher answers, or is a Distiller: the step can't tell."""
