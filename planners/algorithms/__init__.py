"""The built-in planners, one file each: `exact` ones prove their answer."""
